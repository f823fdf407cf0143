#pragma once

#include <string>
#include <vector>

namespace emoe {

// How a template writes one kind of turn. In all its texts "{bos}" and "{eos}" stand for the
// tokenizer's tokens.
struct TurnForm {
  const char* before = nullptr;  // null: the template has no such turn
  const char* lead = "";         // before the content, learned with it
  const char* end = "";          // behind the content, learned with it
  const char* after = "";        // behind that, only read
  bool trim = false;             // the content loses the white space at its ends
};

// A chat template as data: what the template of the same name in Jinja writes.
struct TemplateForm {
  const char* family = "";   // a value of data.template
  const char* variant = "";  // of the family, for people
  const char* begin = "";    // before the first turn
  TurnForm system;           // a first turn; where there is none, see default_system
  TurnForm later_system;     // one that is not the first
  TurnForm user;
  TurnForm assistant;
  TurnForm tool;
  const char* default_system = nullptr;  // the content of the system turn where a row has none
  // Not null: the system's text stands at the front of the first user turn, this before and the other
  // behind it.
  const char* system_in_user = nullptr;
  const char* system_in_user_end = "";
  const char* finish = "";        // behind the last turn
  bool alternates = false;        // user, assistant, user, …, behind the system's turn
  const char* tool_run = "";      // before the first of tool turns in a row
  const char* tool_run_end = "";  // behind the last of them
  bool tool_as_json = false;      // its content is written as a JSON string
  bool thinks = false;            // Qwen3: answers to the last question have a <think> part
  const char* stop = "";          // the token that ends an answer
  const char* jinja = "";         // the same for transformers; empty: only that of a folder
};

// "chatml (qwen2.5)".
[[nodiscard]] std::string template_name(const TemplateForm& form);

// All that are known; of a family the first is the one that its name means.
[[nodiscard]] const std::vector<TemplateForm>& template_forms();

}  // namespace emoe
