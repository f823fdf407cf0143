#pragma once

#include <cstdint>

#include "format/config_reader.h"

namespace emoe {

// Rotary positions of a model: their base, and how the frequencies that follow from it are scaled for
// longer texts than the first training had. Names as in config.json.
struct RopeScaling {
  // linear: every frequency / factor. llama3: those of wavelengths above original positions /
  // low_freq_factor, those below original positions / high_freq_factor not, in between something in
  // between.
  enum class Type { none, linear, llama3 } type = Type::none;
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_positions = 0;

  [[nodiscard]] bool operator==(const RopeScaling&) const = default;
};

struct Rope {
  double theta = 10000.0;
  RopeScaling scaling;

  [[nodiscard]] bool operator==(const Rope&) const = default;
};

// Reads them from a config.json of transformers 4 (rope_theta, rope_scaling) or 5 (rope_parameters).
// Types that are not computed, unknown keys and two spellings that disagree are noted as problems.
// `positions` is max_position_embeddings.
[[nodiscard]] Rope read_rope(ConfigReader& reader, int64_t positions);

}  // namespace emoe
