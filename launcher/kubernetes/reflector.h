#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "launcher/kubernetes/api_client.h"

namespace emoe::launcher {

// The objects of one collection as they last were, kept by a list and then a watch from where it
// was (resourceVersion). A watch that ends, or is cut in the middle of a line, is taken up where it
// was; after 410 the collection is listed again. Thread-safe.
class Reflector {
 public:
  // `selector`: labels as in kubectl -l.
  Reflector(ApiClient& api, std::string path, std::string selector)
      : api_(api), path_(std::move(path)), selector_(std::move(selector)) {}

  // Lists if need be, then watches until the server ends that.
  [[nodiscard]] Status round(const std::stop_token& stop);
  // Rounds until asked to stop, with the pauses that the server wants.
  void run(const std::stop_token& stop);

  // Why what is known may be old: no list yet, or the last round failed.
  [[nodiscard]] Status state() const;
  [[nodiscard]] std::optional<nlohmann::json> find(const std::string& name) const;
  [[nodiscard]] std::vector<nlohmann::json> with_label(const std::string& label,
                                                       const std::string& value) const;

 private:
  void put(const nlohmann::json& object);
  void drop(const std::string& name);
  [[nodiscard]] Status list(const std::stop_token& stop);
  [[nodiscard]] Status watch(const std::stop_token& stop);
  // One line of a watch.
  [[nodiscard]] Status take(std::string_view line);
  void note(const Status& status);

  ApiClient& api_;
  const std::string path_;
  const std::string selector_;

  mutable std::mutex mutex_;
  std::condition_variable_any pause_;
  std::map<std::string, nlohmann::json> objects_;  // by name
  std::string version_;                            // "": list first
  int broken_ = 0;                                 // watches in a row; the rounds' own
  Status state_ = absl::UnavailableError("the API server has not answered yet");
};

// The text at a path like {"metadata", "name"}; "" where there is none.
[[nodiscard]] std::string text_in(const nlohmann::json& object,
                                  std::initializer_list<const char*> path);

}  // namespace emoe::launcher
