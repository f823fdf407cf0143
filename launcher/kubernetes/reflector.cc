#include "launcher/kubernetes/reflector.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/log.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

// Short, so that a connection that died without a word is soon replaced.
constexpr std::chrono::seconds kWatchTime = 60s;
constexpr std::chrono::seconds kWatchMargin = 15s;
// Between rounds: a server that ends each watch at once is not asked in a loop.
constexpr std::chrono::milliseconds kShortestPause = 200ms;
constexpr int kMostBroken = 2;  // watches in a row

// "42" of the metadata of an object or a list.
std::string version_of(const json& object) {
  return text_in(object, {"metadata", "resourceVersion"});
}

// Who wrote which field is half of an object's size.
json without_bulk(json object) {
  if (object.contains("metadata")) object["metadata"].erase("managedFields");
  return object;
}

}  // namespace

std::string text_in(const json& object, std::initializer_list<const char*> path) {
  const json* at = &object;
  for (const char* key : path) {
    if (!at->is_object()) return "";
    const auto found = at->find(key);
    if (found == at->end()) return "";
    at = &*found;
  }
  return at->is_string() ? at->get<std::string>() : "";
}

Status Reflector::state() const {
  const std::lock_guard lock(mutex_);
  return state_;
}

std::optional<json> Reflector::find(const std::string& name) const {
  const std::lock_guard lock(mutex_);
  const auto found = objects_.find(name);
  if (found == objects_.end()) return std::nullopt;
  return found->second;
}

std::vector<json> Reflector::with_label(const std::string& label, const std::string& value) const {
  const std::lock_guard lock(mutex_);
  std::vector<json> found;
  for (const auto& [name, object] : objects_) {
    if (text_in(object, {"metadata", "labels", label.c_str()}) == value) found.push_back(object);
  }
  return found;
}

void Reflector::put(const json& object) {
  const std::lock_guard lock(mutex_);
  objects_[text_in(object, {"metadata", "name"})] = without_bulk(object);
}

void Reflector::drop(const std::string& name) {
  const std::lock_guard lock(mutex_);
  objects_.erase(name);
}

Status Reflector::list(const std::stop_token& stop) {
  EMOE_ASSIGN_OR_RETURN(
      const json answer,
      api_.call("GET", absl::StrCat(path_, "?labelSelector=", url_encoded(selector_)), nullptr,
                /*at_once=*/false, stop));
  if (!answer.contains("items") || !answer["items"].is_array()) {
    return absl::AbortedError("the API server's list has no items");
  }
  std::map<std::string, json> objects;
  for (const json& object : answer["items"]) {
    objects[text_in(object, {"metadata", "name"})] = without_bulk(object);
  }
  const std::lock_guard lock(mutex_);
  objects_ = std::move(objects);
  version_ = version_of(answer);
  return ok_status();
}

Status Reflector::take(std::string_view line) {
  const json event = json::parse(line, nullptr, /*allow_exceptions=*/false);
  const std::string type = text_in(event, {"type"});
  if (type.empty() || !event.contains("object")) {
    return absl::AbortedError("a line of the watch is no event");
  }
  const json& object = event["object"];
  if (type == "ERROR") {
    const bool expired = object.is_object() && object.value("code", 0) == 410;
    const std::string words = text_in(object, {"message"});
    return expired ? absl::OutOfRangeError(words) : absl::AbortedError("the watch says: " + words);
  }
  if (type == "DELETED") drop(text_in(object, {"metadata", "name"}));
  if (type == "ADDED" || type == "MODIFIED") put(object);
  const std::lock_guard lock(mutex_);
  version_ = version_of(object);  // of a BOOKMARK too
  return ok_status();
}

Status Reflector::watch(const std::stop_token& stop) {
  std::string from;
  {
    const std::lock_guard lock(mutex_);
    from = version_;
  }
  std::string rest;  // of a line that is not whole yet: one that is cut comes again
  Status taken;
  const Status ended = api_.stream(
      absl::StrCat(path_,
                   "?watch=true&allowWatchBookmarks=true&labelSelector=", url_encoded(selector_),
                   "&resourceVersion=", url_encoded(from), "&timeoutSeconds=", kWatchTime.count()),
      kWatchTime + kWatchMargin,
      [&](std::string_view data) {
        rest.append(data);
        size_t begin = 0;
        for (size_t end = 0; (end = rest.find('\n', begin)) != std::string::npos; begin = end + 1) {
          if (taken.ok() && end > begin)
            taken = take(std::string_view(rest).substr(begin, end - begin));
        }
        rest.erase(0, begin);
        note(ok_status());
      },
      stop);
  return taken.ok() ? ended : taken;
}

void Reflector::note(const Status& status) {
  const std::lock_guard lock(mutex_);
  if (status.ok() == state_.ok()) {
    state_ = status;
    return;
  }
  // Said once, not each time.
  if (status.ok()) {
    log_info("the API server answers: %s", path_);
  } else {
    log_warning("%s: %s", path_, std::string(status.message()));
  }
  state_ = status;
}

Status Reflector::round(const std::stop_token& stop) {
  Status status;
  bool known = false;
  {
    const std::lock_guard lock(mutex_);
    known = !version_.empty();
  }
  if (!known) {
    status = list(stop);
    if (status.ok()) note(status);
  }
  if (status.ok()) status = watch(stop);
  if (status.code() == StatusCode::kCancelled) return status;
  // One watch that breaks is no word about the server; whether it answers the next will tell.
  const bool broken = known && status.code() == StatusCode::kAborted;
  broken_ = broken ? broken_ + 1 : 0;
  if (!broken || broken_ > kMostBroken)
    note(status.code() == StatusCode::kOutOfRange ? ok_status() : status);
  if (status.code() == StatusCode::kOutOfRange) {
    const std::lock_guard lock(mutex_);
    version_.clear();
  }
  return status;
}

void Reflector::run(const std::stop_token& stop) {
  std::mutex waiting;
  while (!stop.stop_requested()) {
    const Status status = round(stop);
    std::chrono::nanoseconds pause = kShortestPause;
    // Refused for good, as far as we can tell: an administrator's work takes longer than that.
    if (!status.ok() && status.code() != StatusCode::kOutOfRange) pause = 1s;
    std::unique_lock lock(waiting);
    pause_.wait_for(lock, stop, std::max(pause, api_.pause()), [] { return false; });
  }
}

}  // namespace emoe::launcher
