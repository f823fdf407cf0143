#include "plan/micro_batch_tokens.h"

#include <algorithm>
#include <array>

namespace emoe {
namespace {

// From here on a GPU gains nothing more.
constexpr std::array<int64_t, 11> kTokenSizes = {32768, 24576, 16384, 12288, 8192, 6144,
                                                 4096,  3072,  2048,  1536,  1024};

bool step_fits(const DecoderConfig& config, const RankShape& shape, const GpuPasses& passes,
               int64_t tokens) {
  std::vector<MicroBatch> evaluated = {{tokens, tokens}};
  if (passes.of_suite > 0) evaluated.push_back({passes.of_suite * tokens, tokens});
  const RankMemory memory = shape.trains ? rank_memory(config, shape, {{tokens, tokens}}, evaluated)
                                         : rank_memory(config, shape, evaluated);
  return memory.total() <= passes.device_bytes / 10 * 9;
}

}  // namespace

int64_t micro_batch_tokens(const DecoderConfig& config, const RankShape& shape,
                           const GpuPasses& passes) {
  if (!shape.cuda || passes.device_bytes == 0) {
    return std::max(kMicroBatchTokens, passes.longest_row);
  }
  const auto* const largest = std::ranges::find_if(kTokenSizes, [&](int64_t tokens) {
    return step_fits(config, shape, passes, std::max(tokens, passes.longest_row));
  });
  return std::max(largest == kTokenSizes.end() ? kTokenSizes.back() : *largest, passes.longest_row);
}

}  // namespace emoe
