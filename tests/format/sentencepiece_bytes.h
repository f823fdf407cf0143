#pragma once

#include <bit>
#include <cstdint>
#include <string>
#include <vector>

#include "format/sentencepiece_model.h"

namespace emoe::testing {

// Fields of protobuf's wire format.
inline std::string varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}
inline std::string number_field(uint64_t number, uint64_t value) {
  return varint(number << 3) + varint(value);
}
inline std::string bytes_field(uint64_t number, const std::string& bytes) {
  return varint(number << 3 | 2) + varint(bytes.size()) + bytes;
}

inline std::string piece_bytes(const std::string& text, float score,
                               SentencePieceModel::Type type) {
  const auto bits = std::bit_cast<uint32_t>(score);
  return bytes_field(1, bytes_field(1, text) + varint(2 << 3 | 5) +
                            std::string(reinterpret_cast<const char*>(&bits), sizeof bits) +
                            number_field(3, static_cast<uint64_t>(type)));
}

// A BPE model as Llama's: <unk>, <s>, </s>, then `pieces` in the order in which they were learnt.
inline std::string sentencepiece_bytes(const std::vector<std::string>& pieces) {
  using Type = SentencePieceModel::Type;
  std::string bytes = piece_bytes("<unk>", 0, Type::unknown) +
                      piece_bytes("<s>", 0, Type::control) + piece_bytes("</s>", 0, Type::control);
  float score = 0;
  for (const std::string& piece : pieces) bytes += piece_bytes(piece, score--, Type::normal);
  const std::string trainer = number_field(3, 2);
  const std::string normalizer = number_field(3, 1) + number_field(4, 0);
  return bytes + bytes_field(2, trainer) + bytes_field(3, normalizer);
}

}  // namespace emoe::testing
