#include "text/chat_template.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "text/template_match.h"
#include "text/turn_template.h"

namespace emoe {
namespace {

using data::Message;

// Templates of one request and its answer; the tokenizer puts its BOS before and its EOS behind them.
class OneExchange : public ChatTemplate {
 public:
  explicit OneExchange(const Tokenizer& tokenizer) : end_(tokenizer.eos_id()) {}
  [[nodiscard]] int32_t end_of_answer() const override { return end_; }

 protected:
  // The messages of the row by their roles; INVALID_ARGUMENT where there is another.
  struct Exchange {
    std::string user;
    std::string input;
    const Message* answer = nullptr;
  };
  [[nodiscard]] Result<Exchange> exchange_of(const std::vector<Message>& messages) const {
    Exchange exchange;
    int users = 0;
    for (const Message& message : messages) {
      const bool behind = exchange.answer != nullptr;
      if (message.role == "user" && !behind && ++users == 1) {
        exchange.user = message.content;
      } else if (message.role == "input" && !behind) {
        exchange.input = message.content;
      } else if (message.role == "assistant" && !behind) {
        exchange.answer = &message;
      } else {
        return absl::InvalidArgumentError(
            absl::StrCat("has a turn of the ", message.role, ", for which the template ", name(),
                         " has no place: it is one request and one answer"));
      }
    }
    return exchange;
  }
  static void add_answer(const Exchange& exchange, std::vector<TextPart>& parts) {
    if (exchange.answer == nullptr) return;
    parts.push_back({exchange.answer->content, exchange.answer->learned});
  }

 private:
  int32_t end_;
};

// The prompts of github.com/tatsu-lab/stanford_alpaca; without an input, or an empty one, the short one.
class AlpacaTemplate final : public OneExchange {
 public:
  using OneExchange::OneExchange;
  [[nodiscard]] std::string name() const override { return "alpaca"; }
  [[nodiscard]] Result<std::vector<TextPart>> render(const std::vector<Message>& messages,
                                                     bool /*ask*/) const override {
    EMOE_ASSIGN_OR_RETURN(const Exchange exchange, exchange_of(messages));
    const bool with_input = !exchange.input.empty();
    std::vector<TextPart> parts;
    const auto write = [&](std::string text) {
      parts.push_back({.text = std::move(text), .written = true});
    };
    write(absl::StrCat("Below is an instruction that describes a task",
                       with_input ? ", paired with an input that provides further context" : "",
                       ". Write a response that appropriately completes the request.\n\n"
                       "### Instruction:\n"));
    parts.push_back({exchange.user});
    if (with_input) {
      write("\n\n### Input:\n");
      parts.push_back({exchange.input});
    }
    write("\n\n### Response:");
    add_answer(exchange, parts);
    return parts;
  }
};

// A prompt and what follows it.
class PlainTemplate final : public OneExchange {
 public:
  using OneExchange::OneExchange;
  [[nodiscard]] std::string name() const override { return "plain"; }
  [[nodiscard]] Result<std::vector<TextPart>> render(const std::vector<Message>& messages,
                                                     bool /*ask*/) const override {
    EMOE_ASSIGN_OR_RETURN(const Exchange exchange, exchange_of(messages));
    std::vector<TextPart> parts{{exchange.user}};
    add_answer(exchange, parts);
    return parts;
  }
};

// A row of format alpaca in a template of turns: the input stands behind the instruction.
class WithInput final : public ChatTemplate {
 public:
  explicit WithInput(std::unique_ptr<ChatTemplate> turns) : turns_(std::move(turns)) {}
  [[nodiscard]] std::string name() const override { return turns_->name(); }
  [[nodiscard]] bool writes_ends() const override { return turns_->writes_ends(); }
  [[nodiscard]] int32_t end_of_answer() const override { return turns_->end_of_answer(); }
  [[nodiscard]] std::string jinja() const override { return turns_->jinja(); }
  [[nodiscard]] Result<std::vector<TextPart>> render(const std::vector<Message>& messages,
                                                     bool ask) const override {
    std::vector<Message> turns;
    for (const Message& message : messages) {
      if (message.role != "input") {
        turns.push_back(message);
      } else if (!message.content.empty() && !turns.empty()) {
        absl::StrAppend(&turns.back().content, "\n\n", message.content);
      }
    }
    return turns_->render(turns, ask);
  }

 private:
  std::unique_ptr<ChatTemplate> turns_;
};

Result<const TemplateForm*> form_of_folder(const Tokenizer& tokenizer) {
  const std::filesystem::path folder = tokenizer.file().parent_path();
  EMOE_ASSIGN_OR_RETURN(const std::string jinja, read_folder_template(folder));
  if (!jinja.empty()) {
    if (const TemplateForm* form = match_template(jinja)) return form;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "auto: ",
      jinja.empty() ? "there is no chat_template in " : "the chat_template is not known in ",
      folder.string(), "; name the template: ", absl::StrJoin(template_names(), ", ")));
}

// The first form of the family, or the folder's own where it is of it.
const TemplateForm* form_of_family(const std::string& family, const Tokenizer& tokenizer) {
  if (const auto own = form_of_folder(tokenizer); own.ok() && (*own)->family == family) return *own;
  const std::vector<TemplateForm>& forms = template_forms();
  const auto first =
      std::ranges::find_if(forms, [&](const TemplateForm& form) { return form.family == family; });
  return first == forms.end() ? nullptr : &*first;
}

}  // namespace

const std::vector<std::string>& template_names() {
  static const std::vector<std::string> names{"llama2", "llama3", "chatml", "mistral", "alpaca"};
  return names;
}

Result<std::unique_ptr<ChatTemplate>> load_chat_template(const std::string& name,
                                                         const data::RowFormat& format,
                                                         const Tokenizer& tokenizer) {
  if (!format.has_messages()) return nullptr;
  const std::string& wanted = name == "auto" ? format.chat_template : name;
  if (wanted == "alpaca") return std::make_unique<AlpacaTemplate>(tokenizer);
  if (wanted == "plain") return std::make_unique<PlainTemplate>(tokenizer);
  const TemplateForm* form = nullptr;
  if (wanted == "auto") {
    EMOE_ASSIGN_OR_RETURN(form, form_of_folder(tokenizer));
  } else {
    form = form_of_family(wanted, tokenizer);
  }
  if (form == nullptr) {
    return absl::InvalidArgumentError(absl::StrCat("\"", wanted, "\" is no template; use auto, ",
                                                   absl::StrJoin(template_names(), ", ")));
  }
  EMOE_ASSIGN_OR_RETURN(std::unique_ptr<ChatTemplate> turns, make_turn_template(*form, tokenizer));
  return std::make_unique<WithInput>(std::move(turns));
}

std::string text_of(const std::vector<TextPart>& parts) {
  std::string text;
  for (const TextPart& part : parts) text += part.text;
  return text;
}

}  // namespace emoe
