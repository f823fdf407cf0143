#pragma once

#include <cstdint>
#include <string_view>

namespace emoe {

// Random numbers as a pure function of what they are for: no state, so that a number does not
// depend on the order of evaluation, the packing, the micro-batches or the number of ranks.

// The finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection with full avalanche.
[[nodiscard]] constexpr uint64_t mix_bits(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

inline constexpr uint64_t kGolden = 0x9e3779b97f4a7c15ULL;

// A new key from a key and one more coordinate; order matters.
[[nodiscard]] constexpr uint64_t derive_key(uint64_t key, uint64_t coordinate) {
  return mix_bits(mix_bits(key + kGolden) ^ (coordinate * kGolden + 1));
}

// The 64 bits at `index` of the stream named by `key` (SplitMix64 started at `key`).
[[nodiscard]] constexpr uint64_t random_bits(uint64_t key, uint64_t index) {
  return mix_bits(key + (index + 1) * kGolden);
}

// Uniform in [0, 1) with 53 bits, from 64 random ones.
[[nodiscard]] constexpr double unit_of(uint64_t bits) {
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}
[[nodiscard]] constexpr double random_unit(uint64_t key, uint64_t index) {
  return unit_of(random_bits(key, index));
}

// FNV-1a, then mixed: a key from a name.
[[nodiscard]] constexpr uint64_t name_key(std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ULL;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return mix_bits(hash);
}

}  // namespace emoe
