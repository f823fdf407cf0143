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

// Where they stand: behind the system's text, at the front of the first user turn, before the last.
enum class ToolPlace { system_end, first_user, last_user };

// How a template writes functions that may be called, and calls of them.
struct ToolForm {
  const char* list = nullptr;  // before the first function; null: it has no place for them
  ToolPlace place = ToolPlace::system_end;
  const char* lead = "";    // between the system's own text, where there is one, and the list
  const char* before = "";  // before each function, which is written as JSON
  const char* after = "";
  int indent = -1;      // of its levels; negative: on one line
  bool by_key = false;  // what its "function" has, key by key, with texts as they are
  const char* list_between = "";
  const char* list_end = "";
  const char* calls = "";  // before the first call
  const char* call = "";   // before the name of a call, its arguments, and behind them
  const char* arguments = "";
  const char* call_end = "";
  const char* between = "";  // a text and a call, or two calls
  const char* calls_end = "";
  bool one = false;           // an answer has one call at most
  bool without_text = false;  // it is a text or calls
  bool raw_text = false;      // arguments that are a text are written as they are, not as JSON
  // A call is the JSON of its function with its id, and results name the id behind their content.
  bool with_ids = false;
  const char* result_id = "";
  const char* result_end = "";
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
  ToolForm tools;
  const char* system_with_tools =
      nullptr;                           // system.before, where there are functions; null: as ever
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
