#include "worker/batching/micro_batches.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"
#include "worker/batching/shared_prefixes.h"

namespace emoe::worker {
namespace {

// Longest first, ties by index: an order that is the same everywhere.
std::vector<int64_t> longest_first(std::span<const int64_t> lengths, std::vector<int64_t> rows) {
  std::sort(rows.begin(), rows.end(), [&](int64_t a, int64_t b) {
    return lengths[a] != lengths[b] ? lengths[a] > lengths[b] : a < b;
  });
  return rows;
}

// Puts one row at the end of the batch, filled up with padding to `width` tokens. Its first `shared`
// tokens are those of the row before it.
void append_row(PackedBatch& batch, const Row& row, float weight, int64_t width, int64_t shared) {
  const auto length = static_cast<int64_t>(row.ids.size());
  const int64_t before = batch.num_segments() == 0 ? 0 : *(batch.segment_starts.end() - 2);
  for (int64_t t = 0; t < shared; ++t) batch.row_tokens.push_back(batch.row_tokens[before + t]);
  for (int64_t t = shared; t < width; ++t) {
    batch.row_tokens.push_back(batch.num_tokens());
    batch.ids.push_back(t < length ? row.ids[t] : 0);
    batch.positions.push_back(t);
  }
  batch.targets.resize(batch.ids.size(), -1);
  batch.weights.resize(batch.ids.size(), 0.0F);
  const int64_t start = std::ssize(batch.row_tokens) - width;
  for (const TokenSpan& span : row.targets) {
    for (int32_t t = span.begin; t < span.end; ++t) {  // predicted by the token before it
      const int64_t token = batch.row_tokens[start + t - 1];
      batch.targets[token] = row.ids[t];
      batch.weights[token] = weight;
    }
  }
  batch.segment_starts.push_back(std::ssize(batch.row_tokens));
  batch.segment_lengths.push_back(length);
  batch.real_tokens += length;
}

bool shares(const MicroBatchOptions& options) {
  return options.packing && options.share_prefixes;
}

// What a row costs a rank: its tokens, without those that it shares with another row of the step.
// These cost every rank about the same, once in each micro-batch.
std::vector<int64_t> costs_of(const RowRefs& rows, const MicroBatchOptions& options) {
  std::vector<int64_t> costs = lengths_of(rows);
  if (!shares(options)) return costs;
  std::vector<int64_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0);
  const PrefixOrder order = order_by_prefix(rows, all);
  for (size_t i = 0; i < all.size(); ++i) {
    const int64_t with_next = i + 1 < all.size() ? order.shared[i + 1] : 0;
    costs[order.rows[i]] -= std::max(order.shared[i], with_next);
  }
  return costs;
}

}  // namespace

std::vector<std::vector<int64_t>> balance_rows(std::span<const int64_t> lengths, int world_size) {
  EMOE_CHECK(world_size >= 1);
  std::vector<int64_t> all(lengths.size());
  std::iota(all.begin(), all.end(), 0);
  std::vector<std::vector<int64_t>> ranks(world_size);
  std::vector<int64_t> tokens(world_size, 0);
  for (const int64_t row : longest_first(lengths, std::move(all))) {
    const auto least = std::min_element(tokens.begin(), tokens.end()) - tokens.begin();
    ranks[least].push_back(row);
    // An empty row counts one token, so that such rows are spread too.
    tokens[least] += std::max<int64_t>(1, lengths[row]);
  }
  return ranks;
}

std::vector<std::vector<int64_t>> cut_micro_batches(std::span<const int64_t> lengths,
                                                    std::span<const int64_t> mine,
                                                    const MicroBatchOptions& options) {
  EMOE_CHECK(options.max_tokens >= 1);
  std::vector<std::vector<int64_t>> batches;
  std::vector<int64_t> room;  // tokens (packing) or rows (padding) still free in each
  for (const int64_t row : longest_first(lengths, {mine.begin(), mine.end()})) {
    const int64_t need = options.packing ? lengths[row] : 1;
    // Padded rows are sorted, so only the newest batch is worth a look.
    size_t place = options.packing || batches.empty() ? 0 : batches.size() - 1;
    while (place < batches.size() && room[place] < need) ++place;
    if (place == batches.size()) {
      batches.emplace_back();
      const int64_t width = std::max<int64_t>(1, lengths[row]);
      room.push_back(options.packing ? std::max(options.max_tokens, need)
                                     : std::max<int64_t>(1, options.max_tokens / width));
    }
    batches[place].push_back(row);
    room[place] -= need;
  }
  return batches;
}

int64_t shared_tokens(const RowRefs& rows, std::span<const int64_t> which,
                      const MicroBatchOptions& options) {
  if (!shares(options)) return 0;
  const PrefixOrder order = order_by_prefix(rows, which);
  return std::reduce(order.shared.begin(), order.shared.end());
}

int64_t padding_tokens(std::span<const int64_t> lengths,
                       const std::vector<std::vector<int64_t>>& micro_batches,
                       const MicroBatchOptions& options) {
  if (options.packing) return 0;
  int64_t padding = 0;
  for (const auto& batch : micro_batches) {
    int64_t width = 0;
    for (const int64_t row : batch) width = std::max(width, lengths[row]);
    for (const int64_t row : batch) padding += width - lengths[row];
  }
  return padding;
}

std::vector<int64_t> lengths_of(const RowRefs& rows) {
  std::vector<int64_t> lengths;
  lengths.reserve(rows.size());
  for (const Row* row : rows) lengths.push_back(static_cast<int64_t>(row->ids.size()));
  return lengths;
}

int64_t target_tokens_of(const RowRefs& rows) {
  int64_t total = 0;
  for (const Row* row : rows) total += row->target_tokens();
  return total;
}

std::vector<float> target_weights(const RowRefs& rows, LossReduction reduction) {
  const auto targets = static_cast<double>(target_tokens_of(rows));
  const auto useful = static_cast<double>(std::count_if(
      rows.begin(), rows.end(), [](const Row* row) { return row->target_tokens() > 0; }));
  std::vector<float> weights;
  weights.reserve(rows.size());
  for (const Row* row : rows) {
    const auto own = static_cast<double>(row->target_tokens());
    const double share = reduction == LossReduction::token ? targets : useful * own;
    weights.push_back(own == 0.0 ? 0.0F : static_cast<float>(1.0 / share));
  }
  return weights;
}

PackedBatch make_micro_batch(const RowRefs& rows, std::span<const int64_t> which,
                             std::span<const float> weights, const MicroBatchOptions& options) {
  EMOE_CHECK(weights.size() == rows.size());
  int64_t longest = 0;
  for (const int64_t i : which) {
    longest = std::max(longest, static_cast<int64_t>(rows[i]->ids.size()));
  }
  PrefixOrder order;
  if (shares(options)) {
    order = order_by_prefix(rows, which);
  } else {
    order = {.rows = {which.begin(), which.end()}, .shared = std::vector<int64_t>(which.size())};
  }
  PackedBatch batch;
  batch.segment_starts.push_back(0);
  for (size_t i = 0; i < which.size(); ++i) {
    const int64_t key = order.rows[i];
    const Row& row = *rows[key];
    append_row(batch, row, weights[key],
               options.packing ? static_cast<int64_t>(row.ids.size()) : longest, order.shared[i]);
    batch.row_keys.push_back(key);
  }
  if (std::ssize(batch.row_tokens) == batch.num_tokens()) batch.row_tokens.clear();
  return batch;
}

StepBatches make_step_batches(const RowRefs& rows, LossReduction reduction,
                              const MicroBatchOptions& options, int rank, int world_size) {
  const auto lengths = lengths_of(rows);
  const auto weights = target_weights(rows, reduction);
  StepBatches step;
  step.samples = static_cast<int64_t>(rows.size());
  step.tokens = std::reduce(lengths.begin(), lengths.end());
  step.squared_lengths =
      std::inner_product(lengths.begin(), lengths.end(), lengths.begin(), int64_t{0});
  step.target_tokens = target_tokens_of(rows);
  const auto ranks = balance_rows(costs_of(rows, options), world_size);
  for (int r = 0; r < world_size; ++r) {
    const auto cut = cut_micro_batches(lengths, ranks[r], options);
    step.micro_batches += std::ssize(cut);
    step.rounds = std::max<int64_t>(step.rounds, std::ssize(cut));
    step.padding_tokens += padding_tokens(lengths, cut, options);
    for (const auto& which : cut) step.shared_tokens += shared_tokens(rows, which, options);
    if (r != rank) continue;
    for (const auto& which : cut) {
      step.mine.push_back(make_micro_batch(rows, which, weights, options));
    }
  }
  return step;
}

}  // namespace emoe::worker
