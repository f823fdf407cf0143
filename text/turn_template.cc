#include "text/turn_template.h"

#include <algorithm>
#include <optional>
#include <span>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <nlohmann/json.hpp>

#include "text/tool_text.h"
#include "text/turn_text.h"

namespace emoe {
namespace {

using data::Message;
using nlohmann::ordered_json;

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
    if (lists_at(ToolPlace::first_user) &&
        (at == messages_.size() || messages_[at].role != "user")) {
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

  [[nodiscard]] bool lists_at(ToolPlace place) const {
    return !functions_.empty() && form_.tools.place == place;
  }

  void add(std::vector<TextPart> parts) {
    parts_.insert(parts_.end(), std::make_move_iterator(parts.begin()),
                  std::make_move_iterator(parts.end()));
  }
  Status put_functions() {
    EMOE_ASSIGN_OR_RETURN(std::vector<TextPart> parts, functions_text(form_.tools, functions_));
    add(std::move(parts));
    return ok_status();
  }

  // The first turn, where functions stand in it; `text` is null where there is no system's text.
  Status put_system_with_tools(const std::string* text) {
    put(form_.system.before);
    if (text != nullptr) {
      put_words(trimmed(form_.system, *text), false);
      put(form_.tools.lead);
    }
    EMOE_RETURN_IF_ERROR(put_functions());
    put(form_.system.end);
    put(form_.system.after);
    return ok_status();
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
    Result<std::vector<TextPart>> parts = calls_text(form_.tools, message, behind);
    if (!parts.ok()) {
      return refused(absl::StrCat(place, " ", std::string(parts.status().message()),
                                  ", which the template ", owner_.name(), " does not write"));
    }
    add(*std::move(parts));
    return ok_status();
  }

  // The first turn, where it is the system's, or what stands in its place.
  Status write_system(size_t& at) {
    const bool given = !messages_.empty() && messages_.front().role == "system";
    if (!functions_.empty() && form_.tools.list == nullptr) {
      return refused(
          absl::StrCat("has \"tools\", for which the template ", owner_.name(), " has no place"));
    }
    if (lists_at(ToolPlace::system_end)) {
      at = given ? 1 : 0;
      const std::string other = form_.default_system == nullptr ? "" : form_.default_system;
      return put_system_with_tools(given                             ? &messages_.front().content
                                   : form_.default_system != nullptr ? &other
                                                                     : nullptr);
    }
    TurnForm system = form_.system;
    if (lists_at(ToolPlace::first_user)) system.before = form_.system_with_tools;
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
    const bool counts = message.role != "tool" && message.tool_calls.empty();
    if (form_.alternates && counts && is_user != (turns_++ % 2 == 0)) {
      return refused(absl::StrCat(
          "has roles that do not alternate user, assistant, user, …, as the "
          "template ",
          owner_.name(), " wants (message ", at + 1, " is of the ", message.role, ")"));
    }
    if (is_user) return write_user(at);
    if (message.role == "assistant") return write_answer(at);
    if (message.role == "tool") return write_tool(at);
    if (form_.later_system.before == nullptr) return no_place("system behind the first turn");
    put_turn(form_.later_system, message.content);
    return ok_status();
  }

  Status write_user(size_t at) {
    const std::string& content = messages_[at].content;
    // The template compares turns, not places: one that says the same counts as the last.
    if (lists_at(ToolPlace::last_user) && content == messages_[last_user_].content) {
      EMOE_RETURN_IF_ERROR(put_functions());
    }
    if (!system_) {
      put(form_.user.before);
      if (at == first_ && lists_at(ToolPlace::first_user)) EMOE_RETURN_IF_ERROR(put_functions());
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
      const bool calls_only = form_.tools.without_text && !message.tool_calls.empty();
      if (!calls_only) put(form_.assistant.lead, message.learned);
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
    if (form_.tools.with_ids) {
      if (!is_call_id(messages_[at].call_id)) {
        return refused(absl::StrCat("has no \"tool_call_id\" of nine letters in message ", at + 1,
                                    ", which the template ", owner_.name(), " writes"));
      }
      put(form_.tools.result_id);
      put_words(messages_[at].call_id, false);
      put(form_.tools.result_end);
    }
    if (!is_tool(at + 1)) put(form_.tool_run_end);
    return ok_status();
  }

  // The last turn of the user, and the last that is no answer of a tool.
  void find_last_question() {
    last_question_ = std::ssize(messages_) - 1;
    for (size_t at = 0; at < messages_.size(); ++at) {
      if (messages_[at].role != "user") continue;
      const std::string_view content = messages_[at].content;
      last_user_ = at;
      if (content.starts_with("<tool_response>") && content.ends_with("</tool_response>")) continue;
      last_question_ = static_cast<int64_t>(at);
    }
  }

  const TurnTemplate& owner_;
  const TemplateForm& form_;
  std::span<const Message> messages_;  // without the functions
  ordered_json functions_;
  std::vector<TextPart> parts_;
  std::optional<std::string> system_;  // to stand in the first user turn
  size_t first_ = 0;                   // the first turn behind the system's
  size_t turns_ = 0;                   // that alternate and are written
  size_t last_user_ = 0;
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
