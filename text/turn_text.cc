#include "text/turn_text.h"

#include <cstdint>

#include "base/utf8.h"

namespace emoe {
namespace {

// White space as Python's str.strip() has it, by which Jinja trims.
bool is_python_space(uint32_t code) {
  return (code >= 9 && code <= 13) || (code >= 28 && code <= 32) || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

}  // namespace

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

}  // namespace emoe
