#include "format/strict_json.h"

#include <exception>
#include <set>
#include <vector>

#include <absl/strings/str_cat.h>

namespace emoe {
namespace {

constexpr int kMaxDepth = 64;

struct TooDeep : std::exception {
  [[nodiscard]] const char* what() const noexcept override { return "nested too deeply"; }
};

}  // namespace

Result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& source) {
  // The library takes a NUL for the end of the text and skips a byte-order mark.
  if (text.find('\0') != std::string_view::npos || text.starts_with("\xEF\xBB\xBF")) {
    return absl::InvalidArgumentError(
        absl::StrCat(source, ": not JSON: a NUL byte or a byte-order mark"));
  }
  using Json = nlohmann::json;
  std::vector<std::set<std::string>> open_objects;
  std::string duplicate;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw TooDeep();
    if (event == Json::parse_event_t::object_start) {
      open_objects.emplace_back();
    } else if (event == Json::parse_event_t::object_end) {
      open_objects.pop_back();
    } else if (event == Json::parse_event_t::key) {
      const auto& key = parsed.get_ref<const std::string&>();
      if (!open_objects.back().insert(key).second && duplicate.empty()) duplicate = key;
    }
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (duplicate.empty()) return json;
  } catch (const std::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not JSON: ", error.what()));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": the key \"", duplicate, "\" stands twice in one object"));
}

}  // namespace emoe
