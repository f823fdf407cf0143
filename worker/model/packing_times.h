#pragma once

#include <cstdint>

#include "worker/model/decoder_layer.h"
#include "worker/model/model.h"

namespace emoe::worker {

// How long the products of a layer's matrices take for `tokens` random tokens, both directions, one by
// one in turns, plain (DenseMatrix) and packed (PackedMatrix); and how long it takes to pack them. Its
// weights must be plain, of a type that has_onednn().
[[nodiscard]] PackingTimes time_packing(const DecoderLayer& layer, int64_t tokens);

}  // namespace emoe::worker
