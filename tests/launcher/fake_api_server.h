#pragma once

#include <deque>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "launcher/kubernetes/http.h"

namespace emoe::launcher {

// An API server in memory for tests of one thread: it stores what is created, and answers a watch with
// the lines that the test put there. Deletions are only written down.
class FakeApiServer final : public HttpTransport {
 public:
  using json = nlohmann::json;

  Result<HttpAnswer> send(const HttpRequest& request, const std::stop_token&) override {
    requests.push_back(request.method + " " + request.path);
    tokens.push_back(request.token);
    if (!script.empty()) {
      auto next = std::move(script.front());
      script.pop_front();
      if (auto answer = next(request)) return *std::move(answer);
    }
    return carry_out(request);
  }

  // What becomes of the next request; nothing: as usual.
  using Step = std::function<std::optional<Result<HttpAnswer>>(const HttpRequest&)>;
  void next(Step step) { script.push_back(std::move(step)); }
  void next_status(int status, const std::string& reason = "", const std::string& message = "",
                   std::optional<std::chrono::seconds> retry_after = std::nullopt) {
    next([=](const HttpRequest&) { return refused(status, reason, message, retry_after); });
  }

  static HttpAnswer refused(int status, const std::string& reason, const std::string& message,
                            std::optional<std::chrono::seconds> retry_after = std::nullopt) {
    const json body{{"kind", "Status"}, {"reason", reason}, {"message", message}};
    return {status, body.dump(), retry_after};
  }

  void set(const std::string& kind, const json& object) {
    objects[kind][object["metadata"]["name"]] = object;
  }

  std::map<std::string, std::map<std::string, json>> objects{{"mpijobs", {}}, {"pods", {}}};
  std::deque<Step> script;
  std::deque<std::string> watched;  // what the next watches send before they end
  std::vector<std::string> requests;
  std::vector<std::string> tokens;
  json created;

 private:
  Result<HttpAnswer> carry_out(const HttpRequest& request) {
    const std::string path = request.path.substr(0, request.path.find('?'));
    const std::string kind = path.find("/mpijobs") == std::string::npos ? "pods" : "mpijobs";
    const std::string name =
        path.substr(std::min(path.find("/" + kind) + kind.size() + 2, path.size()));
    if (request.on_data) {
      if (watched.empty()) return HttpAnswer{200, "", {}};
      request.on_data(watched.front());
      watched.pop_front();
      return HttpAnswer{200, "", {}};
    }
    if (request.method == "POST") {
      created = json::parse(request.body);
      created["metadata"]["uid"] = "uid-1";
      if (objects[kind].contains(created["metadata"]["name"])) {
        return refused(409, "AlreadyExists", "already exists");
      }
      set(kind, created);
      return HttpAnswer{201, created.dump(), {}};
    }
    if (name.empty()) {
      json items = json::array();
      for (const auto& [key, object] : objects[kind]) items.push_back(object);
      const json list{{"metadata", {{"resourceVersion", "7"}}}, {"items", items}};
      return HttpAnswer{200, list.dump(), {}};
    }
    const auto found = objects[kind].find(name);
    if (found == objects[kind].end())
      return refused(404, "NotFound", kind + " \"" + name + "\" not found");
    return HttpAnswer{200, found->second.dump(), {}};
  }
};

}  // namespace emoe::launcher
