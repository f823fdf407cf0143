#include "format/strict_json.h"

#include <exception>

#include <absl/strings/str_cat.h>

#include "base/input_file.h"
#include "base/json_parsing.h"

namespace emoe {
namespace {

constexpr int kMaxDepth = 64;

struct TooDeep : std::exception {
  [[nodiscard]] const char* what() const noexcept override { return "nested too deeply"; }
};

}  // namespace

Result<nlohmann::json> parse_strict_json(std::string_view text, const std::string& source) {
  const auto not_json = [&](const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(source, ": not JSON: ", why));
  };
  // The library takes a NUL for the end of the text and skips a byte-order mark.
  if (text.starts_with("\xEF\xBB\xBF")) {
    return not_json("it begins with a byte-order mark; save it as UTF-8 without one");
  }
  if (text.find('\0') != std::string_view::npos) return not_json("it has a NUL byte");
  using Json = nlohmann::json;
  DuplicateKeys keys;
  const auto watch = [&](int depth, Json::parse_event_t event, Json& parsed) {
    if (depth > kMaxDepth) throw TooDeep();
    keys.see(depth, event, parsed);
    return true;
  };
  try {
    Json json = Json::parse(text.begin(), text.end(), watch);
    if (!keys.found()) return json;
  } catch (const Json::exception& error) {
    if (is_cut_off(error)) {
      return not_json("it ends in the middle; was it written, or downloaded, to its end?");
    }
    const int64_t line = json_fault_line(error, text);
    return not_json((line == 0 ? "" : absl::StrCat("line ", line, ": ")) + json_fault(error, text));
  } catch (const TooDeep& error) {
    return not_json(error.what());
  }
  return absl::InvalidArgumentError(
      absl::StrCat(source, ": the key \"", keys.first(), "\" stands twice in one object"));
}

Result<nlohmann::json> read_json_object(const std::filesystem::path& file) {
  constexpr size_t kMaxObjectBytes = 64 << 20;
  if (!has_entry(file)) return nlohmann::json::object();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_input(file, InputKind::text, kMaxObjectBytes));
  EMOE_ASSIGN_OR_RETURN(nlohmann::json object, parse_strict_json(text, file.string()));
  if (object.is_object()) return object;
  return absl::InvalidArgumentError(absl::StrCat(file.string(), ": is not a JSON object"));
}

}  // namespace emoe
