#include "text/tool_text.h"

#include <absl/strings/str_cat.h>

#include "text/python_json.h"

namespace emoe {
namespace {

using nlohmann::ordered_json;

// Texts of a template and of a row, in the order of reading.
class Parts {
 public:
  explicit Parts(bool trained) : trained_(trained) {}
  void put(std::string_view text) {
    if (!text.empty()) parts_.push_back({std::string(text), trained_, /*written=*/true});
  }
  void put_words(std::string text) {
    if (!text.empty()) parts_.push_back({std::move(text), trained_});
  }
  std::vector<TextPart> take() { return std::move(parts_); }

 private:
  bool trained_;
  std::vector<TextPart> parts_;
};

// Mistral's words: the keys of the function one by one, a text as it is, without escapes.
std::string by_key(const ordered_json& function) {
  std::string text = R"({"type": "function", "function": {)";
  const char* between = "";
  for (const auto& [key, value] : function.items()) {
    if (key == "return") continue;
    absl::StrAppend(&text, between, "\"", key, "\": ");
    if (value.is_string()) {
      absl::StrAppend(&text, "\"", value.get<std::string>(), "\"");
    } else {
      absl::StrAppend(&text, python_json(value));
    }
    between = ", ";
  }
  return text + "}}";
}

std::string with_id(const ordered_json& call) {
  std::string text = python_json(call["function"]);
  text.pop_back();
  return absl::StrCat(text, ", \"id\": \"", call["id"].get<std::string>(), "\"}");
}

}  // namespace

Result<std::vector<TextPart>> functions_text(const ToolForm& form, const ordered_json& functions) {
  Parts parts(false);
  parts.put(form.list);
  bool first = true;
  for (const ordered_json& function : functions) {
    if (form.by_key && (!function.contains("function") || !function["function"].is_object())) {
      return absl::InvalidArgumentError(
          R"(has "tools" without "function", which the template writes of each)");
    }
    if (!first) parts.put(form.list_between);
    first = false;
    parts.put(form.before);
    parts.put_words(form.by_key ? by_key(function["function"])
                                : python_json(function, form.indent));
    parts.put(form.after);
  }
  parts.put(form.list_end);
  return parts.take();
}

Result<std::vector<TextPart>> calls_text(const ToolForm& form, const data::Message& answer,
                                         bool behind) {
  const auto calls = ordered_json::parse(answer.tool_calls);
  const bool beside = behind && form.without_text;
  if (beside || (form.one && calls.size() > 1)) {
    return absl::InvalidArgumentError(beside ? "beside \"content\"" : "that are several");
  }
  Parts parts(answer.learned);
  if (behind) parts.put(form.between);
  parts.put(form.calls);
  bool first = true;
  for (const ordered_json& call : calls) {
    if (form.with_ids && !is_call_id(call.value("id", ""))) {
      return absl::InvalidArgumentError("without an \"id\" of nine letters");
    }
    if (!first) parts.put(form.between);
    first = false;
    parts.put(form.call);
    if (form.with_ids) {
      parts.put_words(with_id(call));
      continue;
    }
    const ordered_json& arguments = call["function"]["arguments"];
    const bool raw = form.raw_text && arguments.is_string();
    parts.put_words(call["function"]["name"].get<std::string>());
    parts.put(form.arguments);
    parts.put_words(raw ? arguments.get<std::string>() : python_json(arguments));
    parts.put(form.call_end);
  }
  parts.put(form.calls_end);
  return parts.take();
}

bool is_call_id(const std::string& id) {
  return id.size() == 9;
}

}  // namespace emoe
