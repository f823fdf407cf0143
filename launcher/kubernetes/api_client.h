#pragma once

#include <chrono>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/clock.h"
#include "launcher/kubernetes/cluster_access.h"
#include "launcher/kubernetes/http.h"

namespace emoe::launcher {

// The Kubernetes API in one namespace of one cluster: tokens, errors in words, and no question more
// often than the server wants. Thread-safe.
//
// A token that the server does not take (401) is read again from its file and tried once more. After
// 429, 5xx or silence nobody is asked for a while: as long as Retry-After says, else from half a
// second on twice as long each time, 30 s at most; calls meanwhile are UNAVAILABLE at once.
class ApiClient {
 public:
  ApiClient(const ClusterAccess& access, HttpTransport& transport, const Clock& clock,
            std::chrono::milliseconds limit)
      : access_(access), transport_(transport), clock_(clock), limit_(limit) {}

  // The answer to a request that was granted. Errors, with the server's own words and what to do:
  //   UNAUTHENTICATED 401 · PERMISSION_DENIED 403 · RESOURCE_EXHAUSTED a quota is used up ·
  //   NOT_FOUND 404 · ALREADY_EXISTS, ABORTED 409 · INVALID_ARGUMENT 400, 422 · OUT_OF_RANGE 410 ·
  //   UNAVAILABLE 429, or nobody was asked · INTERNAL 5xx (it may be done) · those of HttpTransport
  // `at_once`: also in a pause, for the one question that decides what became of a request.
  [[nodiscard]] Result<nlohmann::json> call(const std::string& method, const std::string& path,
                                            const nlohmann::json& body = nullptr,
                                            bool at_once = false, const std::stop_token& stop = {});
  // A stream; `on_data` gets it as it comes. OK when the server has ended it.
  [[nodiscard]] Status stream(const std::string& path, std::chrono::milliseconds limit,
                              std::function<void(std::string_view)> on_data,
                              const std::stop_token& stop);
  // How long nobody is to be asked.
  [[nodiscard]] std::chrono::nanoseconds pause() const;

  // "/apis/kubeflow.org/v2beta1/namespaces/NS/mpijobs", and "/NAME" for one.
  [[nodiscard]] std::string mpi_jobs(const std::string& name = "") const;
  [[nodiscard]] std::string pods(const std::string& name = "") const;
  [[nodiscard]] const std::string& cluster_namespace() const { return access_.cluster_namespace; }

 private:
  [[nodiscard]] Result<HttpAnswer> send(HttpRequest request, bool at_once,
                                        const std::stop_token& stop);
  [[nodiscard]] Result<std::string> token(bool again);
  [[nodiscard]] Status refusal(const HttpAnswer& answer, const std::string& path) const;
  void note(const Result<HttpAnswer>& answer);

  const ClusterAccess access_;
  HttpTransport& transport_;
  const Clock& clock_;
  const std::chrono::milliseconds limit_;

  mutable std::mutex mutex_;
  std::optional<std::string> token_;
  std::optional<SteadyTime> not_before_;
  int silences_ = 0;  // in a row
};

// An answer that says no; anything else leaves open whether it was done, or will pass.
[[nodiscard]] bool is_refusal(const Status& status);

// "key%3Dvalue" for a query.
[[nodiscard]] std::string url_encoded(const std::string& text);

}  // namespace emoe::launcher
