#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "tests/format/tiny_config.h"
#include "worker/model/decoder.h"
#include "worker/weights/base_weights.h"
#include "worker/weights/peft.h"

namespace emoe::worker::testing {

// A base model small enough to be made in a test.
struct TinyBase {
  bool tied = false;
  bool head_stored_too = false;  // of a tied model, as some checkpoints have it
  std::string dtype = "F32";     // "MIXED": norms F32, feed-forward layers BF16, the rest F16
  uint64_t max_shard_bytes = 1'000'000'000;
};

using emoe::testing::tiny_config;

// Writes config.json, weights and two small files beside them; returns the folder.
std::filesystem::path write_tiny_base(const std::filesystem::path& folder, const TinyBase& tiny);

enum class Tuning { lora, full };

// The model on that base: rank 4 on all seven linears or full tuning, experts in layers 0 and 2
// with labels that no sorting leaves in place.
[[nodiscard]] Decoder make_model(const BaseWeights& base, Tuning tuning,
                                 at::ScalarType dtype = at::kFloat);
// Stands for training: adds noise to every B (or every weight).
void perturb(Decoder& model, double size);

[[nodiscard]] bool same_bytes(std::span<const std::byte> a, std::span<const std::byte> b);
// W + alpha / r * B A in this dtype, from the files alone: the base folder and an exported adapter.
[[nodiscard]] at::Tensor merged_from_files(const BaseWeights& base, const PeftAdapter& adapter,
                                           const std::string& name,
                                           const std::vector<int64_t>& shape,
                                           at::ScalarType dtype = at::kFloat);

}  // namespace emoe::worker::testing
