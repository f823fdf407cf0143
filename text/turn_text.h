#pragma once

#include <string_view>

namespace emoe {

// A text without the white space at its ends, as Python's str.strip() has it, by which Jinja trims.
[[nodiscard]] std::string_view without_left_space(std::string_view text);
[[nodiscard]] std::string_view without_right_space(std::string_view text);
[[nodiscard]] std::string_view without_newlines(std::string_view text, bool left, bool right);

// Qwen3: the thoughts of an answer, and what follows them.
struct Thoughts {
  std::string_view reasoning;
  std::string_view answer;
};
[[nodiscard]] Thoughts split_thoughts(std::string_view content);

}  // namespace emoe
