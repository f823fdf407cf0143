#include "worker/text/chat_template.h"

#include <absl/strings/str_cat.h>

namespace emoe::worker {
namespace {

class AlpacaTemplate final : public ChatTemplate {
 public:
  [[nodiscard]] std::vector<TextPart> render(
      const std::vector<data::Message>& messages) const override {
    std::string instruction;
    std::string input;
    std::vector<TextPart> parts(1);
    for (const data::Message& message : messages) {
      if (message.role == "user") instruction = message.content;
      if (message.role == "input") input = message.content;
      if (message.role == "assistant") parts.push_back({message.content, /*trained=*/true});
    }
    parts[0].text = absl::StrCat(
        "Below is an instruction that describes a task",
        input.empty() ? "" : ", paired with an input that provides further context",
        ". Write a response that appropriately completes the request.\n\n### Instruction:\n",
        instruction, input.empty() ? "" : "\n\n### Input:\n", input, "\n\n### Response:");
    return parts;
  }
};

}  // namespace

const ChatTemplate* find_chat_template(const std::string& name) {
  static const AlpacaTemplate alpaca;
  return name == "alpaca" ? &alpaca : nullptr;
}

std::string text_of(const std::vector<TextPart>& parts) {
  std::string text;
  for (const TextPart& part : parts) text += part.text;
  return text;
}

}  // namespace emoe::worker
