#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "metrics/prometheus.h"

namespace emoe::metrics {

// A small HTTPS server for GET: what the exposer serves by TLS. (civetweb as Debian builds it opens OpenSSL by
// dlopen and looks for functions that OpenSSL 3 has not any more.) A connection carries one request, which
// has seconds to be made; of those that say nothing there may be a few dozen, more are hung up on.
class TlsServer {
 public:
  struct Answer {
    int code = 200;
    std::string type;
    std::string body;
  };
  struct Config {
    std::string host;                                       // an IPv6 address without its brackets
    int port = 0;                                           // 0: a free one
    std::function<ServerTls()> tls;                         // asked for each connection
    std::function<Answer(const std::string& path)> answer;  // called on several threads at once
  };
  // UNAVAILABLE when the address cannot be bound.
  [[nodiscard]] static Result<std::unique_ptr<TlsServer>> start(Config config);
  ~TlsServer();  // ends at once; what is being answered is cut off
  [[nodiscard]] int port() const;

 private:
  struct State;
  explicit TlsServer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace emoe::metrics
