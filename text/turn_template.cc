#include "text/turn_template.h"

#include <algorithm>
#include <optional>
#include <span>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <nlohmann/json.hpp>

#include "base/utf8.h"
#include "text/python_json.h"

namespace emoe {
namespace {

using data::Message;
using nlohmann::ordered_json;

// White space as Python's str.strip() has it, by which Jinja trims.
bool is_python_space(uint32_t code) {
  return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

std::string_view without_left_space(std::string_view text) {
  while (!text.empty()) {
    const Utf8Character character = first_character(text);
    if (character.bytes == 0 || !is_python_space(character.code)) break;
    text.remove_prefix(character.bytes);
  }
  return text;
}

std::string_view without_right_space(std::string_view text) {
  while (!text.empty()) {
    size_t begin = text.size() - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    const Utf8Character character = first_character(text.substr(begin));
    if (character.bytes == 0 || !is_python_space(character.code)) break;
    text = text.substr(0, begin);
  }
  return text;
}

std::string_view without_newlines(std::string_view text, bool left, bool right) {
  while (left && text.starts_with('\n')) text.remove_prefix(1);
  while (right && text.ends_with('\n')) text.remove_suffix(1);
  return text;
}

// Qwen3: the thoughts of an answer, and what follows them.
struct Thoughts {
  std::string_view reasoning;
  std::string_view answer;
};
Thoughts split_thoughts(std::string_view content) {
  constexpr std::string_view kBegin = "<think>";
  constexpr std::string_view kEnd = "</think>";
  if (content.find(kEnd) == std::string_view::npos) return {"", content};
  std::string_view reasoning = content.substr(0, content.find(kEnd));
  reasoning = without_newlines(reasoning, false, true);
  if (const size_t at = reasoning.rfind(kBegin); at != std::string_view::npos) {
    reasoning.remove_prefix(at + kBegin.size());
  }
  const std::string_view answer = content.substr(content.rfind(kEnd) + kEnd.size());
  return {without_newlines(reasoning, true, false), without_newlines(answer, true, false)};
}

// The tokens of the form <|…|> in a template's text.
void find_markers(const char* text, std::vector<std::string>& found) {
  if (text == nullptr) return;
  const std::string_view rest(text);
  for (size_t at = rest.find("<|"); at != std::string_view::npos; at = rest.find("<|", at + 2)) {
    const size_t end = rest.find("|>", at);
    if (end == std::string_view::npos) return;
    const std::string marker(rest.substr(at, end + 2 - at));
    if (std::ranges::find(found, marker) == found.end()) found.push_back(marker);
  }
}

class TurnTemplate final : public ChatTemplate {
 public:
  TurnTemplate(const TemplateForm& form, std::string bos, std::string eos, int32_t stop)
      : form_(form), bos_(std::move(bos)), eos_(std::move(eos)), stop_(stop) {}

  [[nodiscard]] std::string name() const override { return template_name(form_); }
  [[nodiscard]] bool writes_ends() const override { return true; }
  [[nodiscard]] int32_t end_of_answer() const override { return stop_; }
  [[nodiscard]] std::string jinja() const override { return form_.jinja; }
  [[nodiscard]] Result<std::vector<TextPart>> render(const std::vector<Message>& messages,
                                                     bool ask) const override;

 private:
  class Writer;

  TemplateForm form_;
  std::string bos_;
  std::string eos_;
  int32_t stop_;
};

// The state of one rendering.
class TurnTemplate::Writer {
 public:
  Writer(const TurnTemplate& owner, const std::vector<Message>& messages)
      : owner_(owner), form_(owner.form_), messages_(messages) {
    if (messages_.empty() || messages_.front().role != "tools") return;
    functions_ = ordered_json::parse(messages_.front().content);
    messages_ = messages_.subspan(1);
  }

  Result<std::vector<TextPart>> write(bool ask) {
    put(form_.begin);
    size_t at = 0;
    EMOE_RETURN_IF_ERROR(write_system(at));
    find_last_question();
    first_ = at;
    if (lists_in_user() && (at == messages_.size() || messages_[at].role != "user")) {
      return refused("has \"tools\", but no turn of the user at its front to stand in");
    }
    for (; at < messages_.size(); ++at) EMOE_RETURN_IF_ERROR(write_turn(at));
    put(ask && *form_.finish == 0 ? form_.assistant.before : form_.finish);
    return std::move(parts_);
  }

 private:
  [[nodiscard]] static Status refused(const std::string& why) {
    return absl::InvalidArgumentError(why);
  }
  [[nodiscard]] Status no_place(const std::string& role) const {
    return refused(absl::StrCat("has a turn of the ", role, ", for which the template ",
                                owner_.name(), " has no place"));
  }

  // What the template writes.
  void put(std::string_view text, bool trained = false) {
    std::string filled =
        absl::StrReplaceAll(std::string(text), {{"{bos}", owner_.bos_}, {"{eos}", owner_.eos_}});
    if (!filled.empty()) parts_.push_back({std::move(filled), trained, /*written=*/true});
  }
  void put_words(std::string_view text, bool trained) {
    if (!text.empty() || trained) parts_.push_back({std::string(text), trained});
  }
  static std::string_view trimmed(const TurnForm& turn, std::string_view content) {
    return turn.trim ? without_left_space(without_right_space(content)) : content;
  }
  void put_turn(const TurnForm& turn, std::string_view content, bool trained = false) {
    put(turn.before);
    put(turn.lead, trained);
    put_words(trimmed(turn, content), trained);
    put(turn.end, trained);
    put(turn.after);
  }

  [[nodiscard]] bool lists_in_user() const { return !functions_.empty() && form_.tools.in_user; }

  void put_functions() {
    put(form_.tools.list);
    for (const ordered_json& function : functions_) {
      put(form_.tools.before);
      put_words(python_json(function, form_.tools.indent), false);
      put(form_.tools.after);
    }
    put(form_.tools.list_end);
  }

  // The first turn, where functions stand in it; `text` is null where there is no system's text.
  void put_system_with_tools(const std::string* text) {
    put(form_.system.before);
    if (text != nullptr) {
      put_words(trimmed(form_.system, *text), false);
      put(form_.tools.lead);
    }
    put_functions();
    put(form_.system.end);
    put(form_.system.after);
  }

  // Behind the text of an answer, which may be empty.
  Status put_calls(size_t at, bool behind) {
    const Message& message = messages_[at];
    if (message.tool_calls.empty()) return ok_status();
    const std::string place = absl::StrCat("has \"tool_calls\" in message ", at + 1);
    if (form_.tools.list == nullptr) {
      return refused(
          absl::StrCat(place, ", for which the template ", owner_.name(), " has no place"));
    }
    const auto calls = ordered_json::parse(message.tool_calls);
    if (form_.tools.alone && (behind || calls.size() > 1)) {
      return refused(absl::StrCat(place, behind ? " beside \"content\"" : " that are several",
                                  ", which the template ", owner_.name(), " does not write"));
    }
    for (const ordered_json& call : calls) {
      if (behind) put(form_.tools.between, message.learned);
      behind = true;
      const ordered_json& arguments = call["arguments"];
      const bool raw = form_.tools.raw_text && arguments.is_string();
      put(form_.tools.call, message.learned);
      put_words(call["name"].get<std::string>(), message.learned);
      put(form_.tools.arguments, message.learned);
      put_words(raw ? arguments.get<std::string>() : python_json(arguments), message.learned);
      put(form_.tools.call_end, message.learned);
    }
    return ok_status();
  }

  // The first turn, where it is the system's, or what stands in its place.
  Status write_system(size_t& at) {
    const bool given = !messages_.empty() && messages_.front().role == "system";
    if (!functions_.empty() && form_.tools.list == nullptr) {
      return refused(
          absl::StrCat("has \"tools\", for which the template ", owner_.name(), " has no place"));
    }
    if (!functions_.empty() && !form_.tools.in_user) {
      at = given ? 1 : 0;
      const std::string other = form_.default_system == nullptr ? "" : form_.default_system;
      put_system_with_tools(given                             ? &messages_.front().content
                            : form_.default_system != nullptr ? &other
                                                              : nullptr);
      return ok_status();
    }
    TurnForm system = form_.system;
    if (lists_in_user()) system.before = form_.system_with_tools;
    if (given) {
      at = 1;
      if (form_.system_in_user != nullptr) {
        system_ = messages_.front().content;
      } else if (form_.system.before == nullptr) {
        return no_place("system");
      } else {
        put_turn(system, messages_.front().content);
      }
    } else if (form_.default_system != nullptr) {
      put_turn(system, form_.default_system);
    }
    return ok_status();
  }

  Status write_turn(size_t at) {
    const Message& message = messages_[at];
    const bool is_user = message.role == "user";
    if (form_.alternates && message.role != "tool" && is_user != ((at - first_) % 2 == 0)) {
      return refused(absl::StrCat(
          "has roles that do not alternate user, assistant, user, …, as the "
          "template ",
          owner_.name(), " wants (message ", at + 1, " is of the ", message.role, ")"));
    }
    if (is_user) return write_user(message.content, at == first_);
    if (message.role == "assistant") return write_answer(at);
    if (message.role == "tool") return write_tool(at);
    if (form_.later_system.before == nullptr) return no_place("system behind the first turn");
    put_turn(form_.later_system, message.content);
    return ok_status();
  }

  Status write_user(const std::string& content, bool first) {
    if (!system_) {
      put(form_.user.before);
      if (first && lists_in_user()) put_functions();
      put_words(trimmed(form_.user, content), false);
      put(form_.user.end);
      put(form_.user.after);
      return ok_status();
    }
    // Trimmed as one text with the system's.
    put(form_.user.before);
    put(form_.system_in_user);
    const bool trim = form_.user.trim;
    put_words(trim && *form_.system_in_user == 0 ? without_left_space(*system_) : *system_, false);
    put(form_.system_in_user_end);
    put_words(trim ? without_right_space(content) : content, false);
    put(form_.user.end);
    put(form_.user.after);
    system_.reset();
    return ok_status();
  }

  Status write_answer(size_t at) {
    const Message& message = messages_[at];
    const auto end = [&](std::string_view text) -> Status {
      EMOE_RETURN_IF_ERROR(put_calls(at, !text.empty()));
      put(form_.assistant.end, message.learned);
      put(form_.assistant.after);
      return ok_status();
    };
    put(form_.assistant.before);
    if (!form_.thinks) {
      put(form_.assistant.lead, message.learned);
      put_words(trimmed(form_.assistant, message.content), message.learned);
      return end(message.content);
    }
    const auto [reasoning, answer] = split_thoughts(message.content);
    const bool last = at + 1 == messages_.size();
    const bool shown = static_cast<int64_t>(at) > last_question_ && (last || !reasoning.empty());
    if (shown) {
      put("<think>\n", message.learned);
      put_words(without_newlines(reasoning, true, true), message.learned);
      put("\n</think>\n\n", message.learned);
    }
    put_words(shown ? without_newlines(answer, true, false) : answer, message.learned);
    return end(answer);
  }

  Status write_tool(size_t at) {
    if (form_.tool.before == nullptr) return no_place("tool");
    const auto is_tool = [&](size_t i) {
      return i < messages_.size() && messages_[i].role == "tool";
    };
    if (at == 0 || !is_tool(at - 1)) put(form_.tool_run);
    const std::string& content = messages_[at].content;
    put_turn(form_.tool, form_.tool_as_json ? nlohmann::json(content).dump() : content);
    if (!is_tool(at + 1)) put(form_.tool_run_end);
    return ok_status();
  }

  // The last turn of the user that is no answer of a tool.
  void find_last_question() {
    last_question_ = std::ssize(messages_) - 1;
    for (size_t at = messages_.size(); at-- > 0;) {
      const std::string_view content = messages_[at].content;
      if (messages_[at].role != "user" ||
          (content.starts_with("<tool_response>") && content.ends_with("</tool_response>"))) {
        continue;
      }
      last_question_ = static_cast<int64_t>(at);
      return;
    }
  }

  const TurnTemplate& owner_;
  const TemplateForm& form_;
  std::span<const Message> messages_;  // without the functions
  ordered_json functions_;
  std::vector<TextPart> parts_;
  std::optional<std::string> system_;  // to stand in the first user turn
  size_t first_ = 0;                   // the first turn behind the system's
  int64_t last_question_ = -1;
};

Result<std::vector<TextPart>> TurnTemplate::render(const std::vector<Message>& messages,
                                                   bool ask) const {
  return Writer(*this, messages).write(ask);
}

std::vector<std::string> markers_of(const TemplateForm& form) {
  std::vector<std::string> markers;
  find_markers(form.begin, markers);
  for (const TurnForm* turn :
       {&form.system, &form.user, &form.assistant, &form.tool, &form.later_system}) {
    find_markers(turn->before, markers);
    find_markers(turn->end, markers);
  }
  find_markers(form.tool_run, markers);
  return markers;
}

bool writes(const TemplateForm& form, std::string_view token) {
  for (const char* text : {form.begin, form.user.before, form.assistant.end, form.stop}) {
    if (text != nullptr && std::string_view(text).find(token) != std::string_view::npos)
      return true;
  }
  return false;
}

const AddedToken* find_token(const Tokenizer& tokenizer, std::string_view content) {
  const std::vector<AddedToken>& added = tokenizer.rules().added;
  const auto found = std::ranges::find(added, content, &AddedToken::content);
  return found == added.end() ? nullptr : &*found;
}

}  // namespace

Result<std::unique_ptr<ChatTemplate>> make_turn_template(const TemplateForm& form,
                                                         const Tokenizer& tokenizer) {
  std::vector<std::string> missing;
  for (const std::string& marker : markers_of(form)) {
    if (find_token(tokenizer, marker) == nullptr) missing.push_back(marker);
  }
  const AddedToken* bos = tokenizer.rules().find(tokenizer.bos_id());
  const AddedToken* eos = tokenizer.rules().find(tokenizer.eos_id());
  if (bos == nullptr && writes(form, "{bos}")) missing.emplace_back("a BOS");
  if (eos == nullptr && writes(form, "{eos}"))
    missing.emplace_back("an EOS that is an added token");
  if (!missing.empty()) {
    std::string names;
    for (const std::string& name : missing)
      absl::StrAppend(&names, names.empty() ? "" : ", ", name);
    return absl::InvalidArgumentError(absl::StrCat(
        "the template ", template_name(form), " writes ", names, ", which ",
        tokenizer.file().string(), " does not have: it is a template of another family"));
  }
  const std::string_view stop(form.stop);
  const int32_t stop_id = stop == "{eos}" ? tokenizer.eos_id() : find_token(tokenizer, stop)->id;
  return std::make_unique<TurnTemplate>(form, bos == nullptr ? "" : bos->content,
                                        eos == nullptr ? "" : eos->content, stop_id);
}

}  // namespace emoe
