#include "format/byte_alphabet.h"

#include <array>
#include <cstdint>

#include "base/utf8.h"

namespace emoe {
namespace {

constexpr uint32_t kFirstOther = 0x100;
constexpr size_t kLetters = 512;  // above any letter's code point

constexpr bool is_itself(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<uint32_t, 256> letters() {
  std::array<uint32_t, 256> table{};
  uint32_t other = kFirstOther;
  for (uint32_t byte = 0; byte < 256; ++byte) table[byte] = is_itself(byte) ? byte : other++;
  return table;
}
constexpr std::array<uint32_t, 256> kLetter = letters();

constexpr std::array<int16_t, kLetters> bytes() {
  std::array<int16_t, kLetters> table{};
  table.fill(-1);
  for (int16_t byte = 0; byte < 256; ++byte) table[kLetter[byte]] = byte;
  return table;
}
constexpr std::array<int16_t, kLetters> kByte = bytes();

}  // namespace

std::string to_byte_alphabet(std::string_view bytes) {
  std::string text;
  for (const char c : bytes) {
    const uint32_t code = kLetter[static_cast<unsigned char>(c)];
    if (code < 0x80) {
      text += static_cast<char>(code);
    } else {
      text += static_cast<char>(0xC0 | (code >> 6));
      text += static_cast<char>(0x80 | (code & 0x3F));
    }
  }
  return text;
}

std::optional<std::string> from_byte_alphabet(std::string_view letters) {
  std::string bytes;
  while (!letters.empty()) {
    const Utf8Character character = first_character(letters);
    if (character.bytes == 0 || character.code >= kLetters || kByte[character.code] < 0) {
      return std::nullopt;
    }
    bytes += static_cast<char>(kByte[character.code]);
    letters.remove_prefix(character.bytes);
  }
  return bytes;
}

}  // namespace emoe
