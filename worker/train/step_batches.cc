#include "worker/train/step_batches.h"

#include <numeric>

namespace emoe::worker {

StepBatches make_step_batches(const std::vector<Row>& rows, std::span<const int64_t> rows_of_step,
                              LossReduction reduction, const MicroBatchOptions& options, int rank,
                              int world_size) {
  RowRefs refs;
  for (const int64_t row : rows_of_step) refs.push_back(&rows.at(row));
  const auto lengths = lengths_of(refs);
  const auto weights = target_weights(refs, reduction);

  StepBatches step;
  step.samples = static_cast<int64_t>(refs.size());
  step.tokens = std::reduce(lengths.begin(), lengths.end());
  step.squared_lengths =
      std::inner_product(lengths.begin(), lengths.end(), lengths.begin(), int64_t{0});
  step.target_tokens = target_tokens_of(refs);
  const auto ranks = balance_rows(lengths, world_size);
  for (int r = 0; r < world_size; ++r) {
    const auto cut = cut_micro_batches(lengths, ranks[r], options);
    step.padding_tokens += padding_tokens(lengths, cut, options);
    for (size_t b = 0; r == rank && b < cut.size(); ++b) {
      step.mine.push_back(make_micro_batch(refs, cut[b], weights, options));
    }
  }
  return step;
}

}  // namespace emoe::worker
