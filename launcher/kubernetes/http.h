#pragma once

#include <chrono>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include "base/status.h"

namespace emoe::launcher {

struct HttpRequest {
  std::string method = "GET";
  std::string path;   // from the server's root on, encoded: "/api/v1/pods?watch=true"
  std::string body;   // JSON; empty: none
  std::string token;  // of "Authorization: Bearer"; empty: none
  std::chrono::milliseconds limit{30'000};
  // Gets the body of a good answer (2xx) as it comes; HttpAnswer::body stays empty then.
  std::function<void(std::string_view)> on_data;
};

struct HttpAnswer {
  int status = 0;
  std::string body;
  std::optional<std::chrono::seconds> retry_after;  // the header of that name
};

// One exchange with one server. Thread-safe.
class HttpTransport {
 public:
  virtual ~HttpTransport() = default;
  // UNAVAILABLE: no connection, so the server has not heard of the request. ABORTED: the connection
  // broke, or the limit was over: it may have. FAILED_PRECONDITION: the server's certificate is not
  // one for its name, or ours cannot be used. CANCELLED: `stop`.
  [[nodiscard]] virtual Result<HttpAnswer> send(const HttpRequest& request,
                                                const std::stop_token& stop) = 0;
};

}  // namespace emoe::launcher
