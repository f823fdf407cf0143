#include "data/json_object.h"

#include <absl/strings/str_cat.h>

#include "base/utf8.h"
#include "data/piece_reader.h"
#include "data/row_format.h"

namespace emoe::data {

ParsedObject parse_object(const std::string& text, int most_depth) {
  using Event = nlohmann::json::parse_event_t;
  ParsedObject parsed;
  std::string key;
  const auto look = [&](int depth, Event event, const nlohmann::json& value) {
    parsed.keys.see(depth, event, value);
    parsed.too_deep = parsed.too_deep || depth > kMostJsonDepth;
    const auto is_new = [&] { return parsed.filled.empty() || parsed.filled.back() != key; };
    if (depth == 1 && event == Event::key) {
      key = value.get<std::string>();
    } else if (depth == 1 && event == Event::value) {
      const bool blank =
          value.is_null() || (value.is_string() && value.get_ref<const std::string&>().empty());
      if (!blank) parsed.filled.push_back(key);
    } else if (depth > 1 && is_new()) {
      parsed.filled.push_back(key);
    }
    return depth <= most_depth;
  };
  parsed.object = nlohmann::json::parse(text, look);
  return parsed;
}

std::string way_of(std::string_view line, bool last) {
  while (!line.empty() && is_blank(line.substr(line.size() - 1))) line.remove_suffix(1);
  if (line.starts_with('{') && line.ends_with(',')) {
    return "has commas behind its rows: an array stands in [ ], rows on lines of their own have no "
           "commas between them";
  }
  try {
    const auto dropped = nlohmann::json::parse(line, [](int, auto, const auto&) { return false; });
  } catch (const nlohmann::json::exception& error) {
    if (!line.starts_with('{')) {
      return absl::StrCat("is no JSON: it begins with \"",
                          shorten_utf8(to_valid_utf8(std::string(line)), 40), "\"");
    }
    if (!last && is_cut_off(error)) {
      return "has objects of several lines: write each on one line (jq -c), or an array in [ ]";
    }
  }
  return "";
}

}  // namespace emoe::data
