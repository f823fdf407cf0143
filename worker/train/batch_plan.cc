#include "worker/train/batch_plan.h"

#include <algorithm>
#include <numeric>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/counter_random.h"
#include "base/sha256.h"

namespace emoe::worker {
namespace {

// The key of the stream that belongs to a pair of numbers.
uint64_t pair_key(uint64_t a, uint64_t b) {
  return random_bits(random_bits(a, 0) ^ (b * 0xD1342543DE82EF95ULL), 0);
}

// Below `bound`, without bias: draws from the incomplete last stretch are thrown away. `draws`
// counts how many the stream of `key` has given.
uint64_t draw_below(uint64_t bound, uint64_t key, uint64_t& draws) {
  const uint64_t limit = UINT64_MAX - UINT64_MAX % bound;
  uint64_t draw = random_bits(key, draws++);
  while (draw >= limit) draw = random_bits(key, draws++);
  return draw % bound;
}

}  // namespace

Result<BatchPlan> BatchPlan::make(int64_t num_rows, const Options& options) {
  if (num_rows == 0) return absl::InvalidArgumentError("data.train has no row with a target token");
  if (options.global_batch < 1) {
    return absl::InvalidArgumentError("train.global_batch must be at least 1");
  }
  BatchPlan plan(num_rows, options);
  const int64_t whole = num_rows / options.global_batch;
  const bool rest = num_rows % options.global_batch != 0;
  plan.steps_per_epoch_ = whole + (rest && !options.drop_last ? 1 : 0);
  if (plan.steps_per_epoch_ == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("train.global_batch is ", options.global_batch, ", but data.train has only ",
                     num_rows, " usable rows: with train.drop_last no step is left"));
  }
  plan.steps_ = options.max_steps > 0 ? options.max_steps : plan.steps_per_epoch_ * options.epochs;
  if (plan.steps_ < 1) return absl::InvalidArgumentError("train.epochs must be at least 1");
  return plan;
}

std::vector<int64_t> BatchPlan::rows_of_step(int64_t step) {
  EMOE_CHECK(step >= 0 && step < steps_);
  const int64_t epoch = step / steps_per_epoch_;
  if (epoch != ordered_epoch_) {
    if (options_.shuffle) {
      order_ = shuffled_order(num_rows_, options_.seed, epoch);
    } else if (order_.empty()) {
      order_.resize(num_rows_);
      std::iota(order_.begin(), order_.end(), 0);
    }
    ordered_epoch_ = epoch;
  }
  const int64_t begin = step % steps_per_epoch_ * options_.global_batch;
  const int64_t end = std::min(begin + options_.global_batch, num_rows_);
  return {order_.begin() + begin, order_.begin() + end};
}

RowRefs BatchPlan::rows_of_step(int64_t step, const std::vector<Row>& all) {
  RowRefs rows;
  for (const int64_t row : rows_of_step(step)) rows.push_back(&all.at(row));
  return rows;
}

std::vector<int64_t> shuffled_order(int64_t num_rows, int64_t seed, int64_t epoch) {
  std::vector<int64_t> order(num_rows);
  std::iota(order.begin(), order.end(), 0);
  const uint64_t key = pair_key(static_cast<uint64_t>(seed), static_cast<uint64_t>(epoch));
  uint64_t draws = 0;
  for (int64_t i = num_rows - 1; i > 0; --i) {
    std::swap(order[i], order[draw_below(static_cast<uint64_t>(i) + 1, key, draws)]);
  }
  return order;
}

int64_t step_seed(int64_t seed, int64_t step) {
  // Another stream than the epochs' orders: those hash (seed, epoch).
  const uint64_t base = pair_key(static_cast<uint64_t>(seed), 0x64726F706F7574ULL);
  return static_cast<int64_t>(pair_key(base, static_cast<uint64_t>(step)) >> 1);
}

Result<PackingReport> packing_of(const std::vector<Row>& rows, const BatchPlan::Options& plan,
                                 const MicroBatchOptions& micro_batches, int world_size) {
  EMOE_ASSIGN_OR_RETURN(BatchPlan steps, BatchPlan::make(std::ssize(rows), plan));
  PackingReport report;
  report.packed = micro_batches.packing;
  report.shares_prefixes = micro_batches.share_prefixes;
  MicroBatchOptions sharing = micro_batches;
  sharing.share_prefixes = true;
  for (int64_t step = 0; step < std::min(steps.steps(), steps.steps_per_epoch()); ++step) {
    const StepBatches batches =
        make_step_batches(steps.rows_of_step(step, rows), LossReduction::token, sharing,
                          /*rank=*/-1, world_size);
    report.batches += batches.micro_batches;
    report.real_tokens += batches.tokens;
    report.common_tokens += batches.shared_tokens;
    report.computed_tokens += batches.tokens + batches.padding_tokens;
  }
  if (report.shares_prefixes) report.computed_tokens -= report.common_tokens;
  return report;
}

std::string fingerprint(const std::vector<Row>& rows) {
  Sha256 hash;
  for (const Row& row : rows) {
    const uint64_t head[2] = {row.ids.size(), row.targets.size()};
    hash.update(head, sizeof head);
    hash.update(row.targets.data(), row.targets.size() * sizeof(row.targets[0]));
    hash.update(row.ids.data(), row.ids.size() * sizeof(row.ids[0]));
  }
  return hash.hex_digest();
}

}  // namespace emoe::worker
