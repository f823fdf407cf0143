#include "data/row_format.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "data/piece_reader.h"

namespace emoe::data {
namespace {

// A key that must be there with any string, one whose string must have more than spaces, and one
// that may be absent or null, which is the empty string.
enum class Need { any, not_blank, optional };

// The string at `key`; false, and the fault reported, when it is not as needed.
bool take(const nlohmann::json& object, const char* key, Need need, const ReportFault& fault,
          std::string& out) {
  const auto found = object.find(key);
  if (need == Need::optional && (found == object.end() || found->is_null())) return true;
  if (found == object.end()) {
    fault(absl::StrCat("lacks the key \"", key, "\""));
  } else if (!found->is_string()) {
    fault(absl::StrCat("has a ", found->type_name(), " at \"", key, "\", must be a string"));
  } else if (out = found->get<std::string>(); need == Need::not_blank && is_blank(out)) {
    fault(absl::StrCat("has an empty \"", key, "\""));
  } else {
    return true;
  }
  return false;
}

bool parse_alpaca(const nlohmann::json& object, const ReportFault& fault, SourceRow& row) {
  std::string instruction;
  std::string input;
  std::string output;  // may be empty: the answer is then the end of the text alone
  bool good = take(object, "instruction", Need::not_blank, fault, instruction);
  good = take(object, "input", Need::optional, fault, input) && good;
  good = take(object, "output", Need::any, fault, output) && good;
  row.messages = {{"user", std::move(instruction)},
                  {"input", std::move(input)},
                  {"assistant", std::move(output)}};
  return good;
}

bool parse_text(const nlohmann::json& object, const ReportFault& fault, SourceRow& row) {
  return take(object, "text", Need::not_blank, fault, row.text);
}

}  // namespace

const std::vector<RowFormat>& row_formats() {
  static const std::vector<RowFormat> formats{
      // Objects with the strings instruction, output and optionally input.
      {.name = "alpaca",
       .endings = {".json", ".jsonl"},
       .chat_template = "alpaca",
       .keys = {"instruction", "input", "output"},
       .parse = parse_alpaca},
      // Objects with the string text, or a .txt of documents.
      {.name = "text",
       .endings = {".json", ".jsonl", ".txt"},
       .chat_template = "",
       .keys = {"text"},
       .parse = parse_text},
  };
  return formats;
}

const RowFormat* find_row_format(const std::string& name) {
  const std::vector<RowFormat>& formats = row_formats();
  const auto found = std::find_if(formats.begin(), formats.end(),
                                  [&](const RowFormat& format) { return format.name == name; });
  return found == formats.end() ? nullptr : &*found;
}

}  // namespace emoe::data
