#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace emoe {

// The letters by which GPT-2 writes the 256 bytes (github.com/openai/gpt-2, encoder.py): printable ones
// as themselves, the others from U+0100 on.
[[nodiscard]] std::string to_byte_alphabet(std::string_view bytes);
// And back; nothing where a character is none of them.
[[nodiscard]] std::optional<std::string> from_byte_alphabet(std::string_view letters);

}  // namespace emoe
