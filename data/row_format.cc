#include "data/row_format.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/utf8.h"
#include "data/json_values.h"
#include "data/piece_reader.h"

namespace emoe::data {
namespace {

// A key that must be there with any string, one whose string must have more than spaces, and one
// that may be absent or null, which is the empty string.
enum class Need { any, not_blank, optional };

// The strings of an object, and everything that is wrong with them.
class Strings {
 public:
  Strings(const nlohmann::json& object, const RowParsing& parsing)
      : object_(object), parsing_(parsing) {}

  std::string take(const char* field, Need need) {
    const std::string key = parsing_.column(field);
    const auto found = object_.find(key);
    if (need == Need::optional && (found == object_.end() || found->is_null())) return "";
    if (found == object_.end()) {
      missing_.push_back(key);
      return "";
    }
    if (!found->is_string()) {
      fail(absl::StrCat("has ", kind_of(*found), " at \"", key, "\", must be a string"));
      return "";
    }
    auto text = found->get<std::string>();
    if (need == Need::not_blank && is_blank(text)) fail(absl::StrCat("has an empty \"", key, "\""));
    return text;
  }

  // To be asked once all are taken: what is missing is one fault, with what is there instead.
  bool good() {
    if (missing_.empty()) return good_;
    std::vector<std::string> present;
    for (const auto& [key, value] : object_.items()) present.push_back(key);
    fail(absl::StrCat("lacks the key", missing_.size() > 1 ? "s " : " ", quoted_keys(missing_),
                      "; it has ", present.empty() ? "none" : quoted_keys(present)));
    return false;
  }

 private:
  void fail(const std::string& reason) {
    parsing_.fault(reason);
    good_ = false;
  }

  const nlohmann::json& object_;
  const RowParsing& parsing_;
  std::vector<std::string> missing_;
  bool good_ = true;
};

bool parse_alpaca(const nlohmann::json& object, const RowParsing& parsing, SourceRow& row) {
  Strings strings(object, parsing);
  row.messages = {{"user", strings.take("instruction", Need::not_blank)},
                  {"input", strings.take("input", Need::optional)},
                  // may be empty: the answer is then the end of the text alone
                  {"assistant", strings.take("output", Need::any)}};
  return strings.good();
}

bool parse_completion(const nlohmann::json& object, const RowParsing& parsing, SourceRow& row) {
  Strings strings(object, parsing);
  row.messages = {{"user", strings.take("prompt", Need::any)},
                  {"assistant", strings.take("completion", Need::any)}};
  return strings.good();
}

bool parse_text(const nlohmann::json& object, const RowParsing& parsing, SourceRow& row) {
  Strings strings(object, parsing);
  row.text = strings.take("text", Need::not_blank);
  return strings.good();
}

}  // namespace

std::string kind_of(const nlohmann::json& value) {
  const std::string name = value.type_name();
  if (value.is_null()) return name;
  return absl::StrCat(value.is_array() || value.is_object() ? "an " : "a ", name);
}

std::string quoted_keys(const std::vector<std::string>& keys) {
  constexpr size_t kMost = 8;
  std::string text;
  for (size_t i = 0; i < std::min(keys.size(), kMost); ++i) {
    const char* between = i == 0 ? "" : i + 1 == keys.size() ? " and " : ", ";
    absl::StrAppend(&text, between, "\"", shorten_utf8(keys[i], 40), "\"");
  }
  return keys.size() > kMost ? absl::StrCat(text, " and ", keys.size() - kMost, " more") : text;
}

const std::vector<RowFormat>& row_formats() {
  static const std::vector<std::string> kTables{".json", ".jsonl", ".csv", ".parquet"};
  static const std::vector<RowFormat> formats{
      // Objects with the strings instruction, output and optionally input.
      {.name = "alpaca",
       .endings = kTables,
       .chat_template = "alpaca",
       .keys = {"instruction", "input", "output"},
       .fields = {"instruction", "input", "output"},
       .needs = {{"instruction"}, {"output"}},
       .parse = parse_alpaca},
      // Objects with a list of messages, each with its role and content, and optionally the functions
      // that may be called.
      {.name = "chat",
       .endings = {".json", ".jsonl", ".parquet"},
       .chat_template = "auto",
       .keys = {"messages", "conversations", "tools"},
       .fields = {"messages", "role", "content"},
       .needs = {{"messages", "conversations"}},
       .json_depth = kMostJsonDepth,
       .parse = parse_chat},
      // Objects with the strings prompt and completion, which are one text.
      {.name = "completion",
       .endings = kTables,
       .chat_template = "plain",
       .keys = {"prompt", "completion"},
       .fields = {"prompt", "completion"},
       .needs = {{"prompt"}, {"completion"}},
       .parse = parse_completion},
      // Objects with the string text, or a .txt of documents.
      {.name = "text",
       .endings = {".json", ".jsonl", ".csv", ".txt", ".parquet"},
       .chat_template = "",
       .keys = {"text"},
       .fields = {"text"},
       .needs = {{"text"}},
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

bool has_empty_answers(const std::vector<Message>& messages) {
  bool answered = false;
  for (const Message& message : messages) {
    if (message.role != "assistant" || !message.learned) continue;
    if (!is_blank(message.content) || !message.tool_calls.empty()) return false;
    answered = true;
  }
  return answered;
}

std::string place_text(const std::filesystem::path& file, RowUnit unit, int64_t index,
                       int64_t line) {
  std::string text = absl::StrCat(file.filename().string(), ":", line);
  if (unit == RowUnit::line || unit == RowUnit::record) return text;
  return absl::StrCat(text, " (", unit == RowUnit::row ? "row " : "document ", index + 1,
                      ", counted from 1)");
}

std::string row_name(const SourceRow& row) {
  if (row.unit == RowUnit::line) return absl::StrCat("line ", row.line);
  return absl::StrCat(row.unit == RowUnit::document ? "document " : "row ", row.index + 1,
                      " (counted from 1)");
}

std::string place_of(const std::filesystem::path& file, const SourceRow& row) {
  return place_text(file, row.unit, row.index, row.line);
}

}  // namespace emoe::data
