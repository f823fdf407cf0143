// The chat templates that people have, as their stock templates in Jinja write them. The texts in Jinja
// here are our own; text/template_match.cc knows the published ones.
#include "text/template_form.h"

namespace emoe {
namespace {

constexpr char kLlama2[] =
    "{% if messages[0]['role'] == 'system' %}{% set system = '<<SYS>>\\n' + messages[0]['content'] "
    "+ '\\n<</SYS>>\\n\\n' %}{% set turns = messages[1:] %}{% else %}{% set system = '' %}{% set "
    "turns = messages %}{% endif %}{% for message in turns %}{% if (message['role'] == 'user') != "
    "(loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate: user, assistant, …') }}"
    "{% endif %}{% if message['role'] == 'user' %}{% set content = (system if loop.first else '') "
    "+ "
    "message['content'] %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}{% else %}"
    "{{ ' ' + message['content'] | trim + ' ' + eos_token }}{% endif %}{% endfor %}";

constexpr char kLlama3[] =
    "{{ bos_token }}{% for message in messages %}{{ '<|start_header_id|>' + message['role'] + "
    "'<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}{% if "
    "add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif "
    "%}";

constexpr char kChatml[] =
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ '<|im_end|>' + '\\n' }}{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|im_start|>assistant\\n' }}{% endif %}";

constexpr char kMistral[] =
    "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 "
    "% 2 == 0) %}{{ raise_exception('roles must alternate: user, assistant, …') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% else %}"
    "{{ message['content'] + eos_token }}{% endif %}{% endfor %}";

constexpr char kToday[] =
    "<|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday "
    "Date: 26 Jul 2024\n\n";

constexpr char kTodayWithTools[] =
    "<|start_header_id|>system<|end_header_id|>\n\nEnvironment: ipython\nCutting Knowledge Date: "
    "December 2023\nToday Date: 26 Jul 2024\n\n";

// Functions in Llama 3.1's words: in front of the first question.
constexpr ToolForm kLlamaTools{
    .list =
        "Given the following functions, please respond with a JSON for a function call with its "
        "proper arguments that best answers the given prompt.\n\nRespond in the format "
        "{\"name\": function name, \"parameters\": dictionary of argument name and its value}."
        "Do not use variables.\n\n",
    .place = ToolPlace::first_user,
    .after = "\n\n",
    .indent = 4,
    .call = "{\"name\": \"",
    .arguments = "\", \"parameters\": ",
    .call_end = "}",
    .one = true,
    .without_text = true};

// In Qwen's: behind the system's text.
ToolForm qwen_tools(bool raw_text) {
  return {.list =
              "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
              "You are provided with function signatures within <tools></tools> XML tags:\n"
              "<tools>",
          .lead = "\n\n",
          .before = "\n",
          .list_end =
              "\n</tools>\n\nFor each function call, return a json object with function name "
              "and arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n"
              "{\"name\": <function-name>, \"arguments\": <args-json-object>}\n</tool_call>",
          .call = "<tool_call>\n{\"name\": \"",
          .arguments = "\", \"arguments\": ",
          .call_end = "}\n</tool_call>",
          .between = "\n",
          .raw_text = raw_text};
}

// In those of Mistral's templates of 2024.
ToolForm mistral_tools(const char* list, const char* calls) {
  return {.list = list,
          .place = ToolPlace::last_user,
          .by_key = true,
          .list_between = ", ",
          .list_end = "][/AVAILABLE_TOOLS]",
          .calls = calls,
          .between = ", ",
          .calls_end = "]",
          .without_text = true,
          .with_ids = true,
          .result_id = ", \"call_id\": \"",
          .result_end = "\"}[/TOOL_RESULTS]"};
}

TurnForm header(const char* before) {
  return {.before = before, .end = "<|eot_id|>", .trim = true};
}
TurnForm im(const char* before) {
  return {.before = before, .end = "<|im_end|>", .after = "\n"};
}

TemplateForm llama3() {
  return {.family = "llama3",
          .variant = "llama 3",
          .begin = "{bos}",
          .system = header("<|start_header_id|>system<|end_header_id|>\n\n"),
          .later_system = header("<|start_header_id|>system<|end_header_id|>\n\n"),
          .user = header("<|start_header_id|>user<|end_header_id|>\n\n"),
          .assistant = header("<|start_header_id|>assistant<|end_header_id|>\n\n"),
          .tool = header("<|start_header_id|>tool<|end_header_id|>\n\n"),
          .stop = "<|eot_id|>",
          .jinja = kLlama3};
}

// The first one that was published asks for an answer behind any conversation.
TemplateForm first_llama3() {
  TemplateForm form = llama3();
  form.variant = "llama 3, first";
  form.finish = form.assistant.before;
  form.jinja = "";
  return form;
}

// It writes two dates, that of its own text. Those of 3.2 ask their program for today's date, and have
// this one where it does not tell: what is learned does not depend on the day of the run.
TemplateForm llama3_1(const char* variant) {
  TemplateForm form = llama3();
  form.variant = variant;
  form.system = header(kToday);
  form.default_system = "";
  form.tool = {.before = "<|start_header_id|>ipython<|end_header_id|>\n\n", .end = "<|eot_id|>"};
  form.tool_as_json = true;
  form.tools = kLlamaTools;
  form.system_with_tools = kTodayWithTools;
  form.jinja = "";
  return form;
}

TemplateForm chatml() {
  return {.family = "chatml",
          .variant = "plain",
          .system = im("<|im_start|>system\n"),
          .later_system = im("<|im_start|>system\n"),
          .user = im("<|im_start|>user\n"),
          .assistant = im("<|im_start|>assistant\n"),
          .tool = im("<|im_start|>tool\n"),
          .stop = "<|im_end|>",
          .jinja = kChatml};
}

TemplateForm qwen2() {
  TemplateForm form = chatml();
  form.variant = "qwen2";
  form.default_system = "You are a helpful assistant.";
  form.jinja = "";
  return form;
}

// With tools; `raw_text`: of ToolForm.
TemplateForm qwen(const char* variant, const char* default_system, bool raw_text) {
  TemplateForm form = qwen2();
  form.variant = variant;
  form.default_system = default_system;
  form.tools = qwen_tools(raw_text);
  form.tool = {.before = "\n<tool_response>\n", .end = "\n</tool_response>"};
  form.tool_run = "<|im_start|>user";
  form.tool_run_end = "<|im_end|>\n";
  return form;
}

TemplateForm qwen3() {
  TemplateForm form = qwen("qwen3", nullptr, true);
  form.thinks = true;
  return form;
}

TemplateForm llama2() {
  return {.family = "llama2",
          .variant = "llama 2",
          .user = {.before = "{bos}[INST] ", .end = " [/INST]", .trim = true},
          .assistant = {.before = "", .lead = " ", .end = " {eos}", .trim = true},
          .system_in_user = "<<SYS>>\n",
          .system_in_user_end = "\n<</SYS>>\n\n",
          .alternates = true,
          .stop = "{eos}",
          .jinja = kLlama2};
}

TemplateForm mistral(const char* variant, TurnForm user, TurnForm assistant) {
  return {.family = "mistral",
          .variant = variant,
          .begin = "{bos}",
          .user = user,
          .assistant = assistant,
          .alternates = true,
          .stop = "{eos}"};
}

std::vector<TemplateForm> mistrals() {
  const TurnForm spaced{.before = "[INST] ", .end = " [/INST]"};
  const TurnForm tight{.before = "[INST] ", .end = "[/INST]"};
  TemplateForm first = mistral("v0.2", spaced, {.before = "", .end = "{eos}"});
  first.jinja = kMistral;
  TemplateForm with_system = mistral("v0.2 with system", {.before = " [INST] ", .end = " [/INST]"},
                                     {.before = "", .lead = " ", .end = "{eos}"});
  with_system.system_in_user = "";
  with_system.system_in_user_end = "\n\n";
  TemplateForm v3 =
      mistral("v0.3", tight, {.before = "", .lead = " ", .end = "{eos}", .trim = true});
  v3.tools = mistral_tools("[AVAILABLE_TOOLS] [", "[TOOL_CALLS] [");
  v3.tool.before = "[TOOL_RESULTS] {\"content\": ";
  TemplateForm nemo =
      mistral("nemo", {.before = "[INST]", .end = "[/INST]"}, {.before = "", .end = "{eos}"});
  nemo.tools = mistral_tools("[AVAILABLE_TOOLS][", "[TOOL_CALLS][");
  nemo.tool.before = "[TOOL_RESULTS]{\"content\": ";
  TemplateForm v7 = mistral("v7", tight, {.before = "", .lead = " ", .end = "{eos}"});
  v7.alternates = false;
  v7.system = {.before = "[SYSTEM_PROMPT] ", .end = "[/SYSTEM_PROMPT]"};
  v7.later_system = v7.system;
  return {first,       mistral("v0.1", spaced, {.before = "", .end = "{eos}", .after = " "}),
          with_system, v3,
          nemo,        v7};
}

}  // namespace

std::string template_name(const TemplateForm& form) {
  return std::string(form.family) + " (" + form.variant + ")";
}

const std::vector<TemplateForm>& template_forms() {
  static const std::vector<TemplateForm> forms = [] {
    std::vector<TemplateForm> all{
        llama2(),
        llama3(),
        first_llama3(),
        llama3_1("llama 3.1"),
        llama3_1("llama 3.2, of 26 Jul 2024"),
        chatml(),
        qwen2(),
        qwen("qwen2.5", "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
             false),
        qwen("qwen3 instruct", nullptr, true),
        qwen3()};
    for (const TemplateForm& form : mistrals()) all.push_back(form);
    return all;
  }();
  return forms;
}

}  // namespace emoe
