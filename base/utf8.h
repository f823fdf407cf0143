#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace emoe {

struct Utf8Character {
  size_t bytes = 0;   // 0: none
  uint32_t code = 0;  // its code point
};
// The character that `text` begins with; none where that is no well-formed UTF-8.
[[nodiscard]] Utf8Character first_character(std::string_view text);

// Well-formed UTF-8 (no overlong forms, no surrogates, nothing above U+10FFFF).
[[nodiscard]] bool is_utf8(std::string_view text);

// The text with each byte that is no part of well-formed UTF-8 replaced by U+FFFD: what goes into a
// protobuf string must be UTF-8, and file names and program output need not be.
[[nodiscard]] std::string to_valid_utf8(const std::string& text);

// The first at most `bytes` bytes of a valid text, cut between characters, "…" behind it if cut.
[[nodiscard]] std::string shorten_utf8(const std::string& text, size_t bytes);

}  // namespace emoe
