#include "worker/text/chat_template.h"

#include <absl/strings/str_cat.h>

namespace emoe::worker {
namespace {

// The content of the first message of a role; null: there is none.
const std::string* content_of(const std::vector<data::Message>& messages, const char* role) {
  for (const data::Message& message : messages) {
    if (message.role == role) return &message.content;
  }
  return nullptr;
}

class AlpacaTemplate final : public ChatTemplate {
 public:
  [[nodiscard]] std::vector<TextPart> render(
      const std::vector<data::Message>& messages) const override {
    const std::string* instruction = content_of(messages, "user");
    const std::string* input = content_of(messages, "input");
    const std::string* output = content_of(messages, "assistant");
    std::vector<TextPart> parts{
        {prompt(instruction != nullptr ? *instruction : "", input != nullptr ? *input : "")}};
    if (output != nullptr) parts.push_back({*output, /*trained=*/true});
    return parts;
  }

 private:
  static std::string prompt(const std::string& instruction, const std::string& input) {
    if (input.empty()) {
      return absl::StrCat(
          "Below is an instruction that describes a task. Write a response that appropriately "
          "completes the request.\n\n### Instruction:\n",
          instruction, "\n\n### Response:");
    }
    return absl::StrCat(
        "Below is an instruction that describes a task, paired with an input that provides "
        "further context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n",
        instruction, "\n\n### Input:\n", input, "\n\n### Response:");
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
