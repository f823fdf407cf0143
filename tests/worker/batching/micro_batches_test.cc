#include "worker/batching/micro_batches.h"

#include <algorithm>
#include <numeric>
#include <set>

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// The first `prompt_tokens` are no targets, and never the very first.
Row make_row(int32_t length, int32_t prompt_tokens, int32_t first_id = 10) {
  Row row;
  for (int32_t i = 0; i < length; ++i) row.ids.push_back(first_id + i);
  const int32_t first = std::max(prompt_tokens, 1);
  if (first < length) row.targets = {{first, length}};
  return row;
}

std::vector<int64_t> some_lengths(int64_t count) {
  std::vector<int64_t> lengths;
  for (int64_t i = 0; i < count; ++i) lengths.push_back(1 + (i * 7919) % 97);
  return lengths;
}

std::vector<int64_t> all_of(size_t count) {
  std::vector<int64_t> all(count);
  std::iota(all.begin(), all.end(), 0);
  return all;
}

int64_t tokens_of(const std::vector<int64_t>& rows, const std::vector<int64_t>& lengths) {
  int64_t sum = 0;
  for (const int64_t r : rows) sum += lengths[r];
  return sum;
}

TEST(BalanceRows, EveryRowOnceAndTokensAboutEqual) {
  const auto lengths = some_lengths(128);
  for (const int world : {1, 2, 3, 8}) {
    const auto ranks = balance_rows(lengths, world);
    std::multiset<int64_t> seen;
    int64_t most = 0;
    int64_t least = INT64_MAX;
    for (const auto& rows : ranks) {
      seen.insert(rows.begin(), rows.end());
      most = std::max(most, tokens_of(rows, lengths));
      least = std::min(least, tokens_of(rows, lengths));
    }
    const auto all = all_of(lengths.size());
    EXPECT_EQ(seen, std::multiset<int64_t>(all.begin(), all.end()));
    // Dealing out the longest first is never worse than by one row, and here by far less.
    EXPECT_LE(most - least, 5) << world;
    EXPECT_EQ(ranks, balance_rows(lengths, world));
  }
}

TEST(BalanceRows, EveryRankHasARowWhereThereAreEnough) {
  const std::vector<int64_t> lengths = {1000, 1, 1, 1};
  for (const auto& rows : balance_rows(lengths, 4)) EXPECT_EQ(rows.size(), 1);
  const auto few = balance_rows(std::vector<int64_t>{5, 6}, 4);
  EXPECT_EQ(few[0].size() + few[1].size() + few[2].size() + few[3].size(), 2);
  EXPECT_TRUE(few[3].empty());
}

TEST(CutMicroBatches, KeepsTheBudgetAndEveryRow) {
  const auto lengths = some_lengths(100);
  const auto mine = all_of(100);
  for (const bool packing : {true, false}) {
    for (const int64_t budget : {1, 50, 97, 300, 1'000'000}) {
      const MicroBatchOptions options{.max_tokens = budget, .packing = packing};
      const auto batches = cut_micro_batches(lengths, mine, options);
      std::multiset<int64_t> seen;
      for (const auto& batch : batches) {
        seen.insert(batch.begin(), batch.end());
        int64_t longest = 0;
        for (const int64_t r : batch) longest = std::max(longest, lengths[r]);
        const int64_t size =
            packing ? tokens_of(batch, lengths) : longest * static_cast<int64_t>(batch.size());
        EXPECT_TRUE(size <= budget || batch.size() == 1) << size << " of " << budget;
      }
      EXPECT_EQ(seen, std::multiset<int64_t>(mine.begin(), mine.end()));
      if (budget == 1'000'000) {
        EXPECT_EQ(batches.size(), 1);
      }
    }
  }
}

TEST(CutMicroBatches, PacksTight) {
  const auto lengths = some_lengths(200);
  const MicroBatchOptions options{.max_tokens = 256, .packing = true};
  const auto batches = cut_micro_batches(lengths, all_of(200), options);
  const int64_t total = std::reduce(lengths.begin(), lengths.end());
  EXPECT_LE(static_cast<int64_t>(batches.size()), total / 256 + 1);
  EXPECT_EQ(padding_tokens(lengths, batches, options), 0);
}

TEST(MakeMicroBatch, PackedRowsStandSideBySide) {
  const Row a = make_row(4, 2, 10);
  const Row b = make_row(3, 0, 20);
  const RowRefs rows = {&a, &b};
  const std::vector<float> weights = {0.25F, 0.5F};
  const std::vector<int64_t> which = {1, 0};
  const PackedBatch batch = make_micro_batch(rows, which, weights, {.packing = true});
  EXPECT_EQ(batch.ids, (std::vector<int64_t>{20, 21, 22, 10, 11, 12, 13}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 0, 1, 2, 3}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{21, 22, -1, -1, 12, 13, -1}));
  EXPECT_EQ(batch.weights, (std::vector<float>{0.5F, 0.5F, 0, 0, 0.25F, 0.25F, 0}));
  EXPECT_EQ(batch.segment_starts, (std::vector<int64_t>{0, 3, 7}));
  EXPECT_EQ(batch.segment_lengths, (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(batch.row_keys, (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(batch.real_tokens, 7);
}

TEST(MakeMicroBatch, OnlyTheSpansOfARowAreTargets) {
  Row a = make_row(7, 0, 10);
  a.targets = {{1, 2}, {3, 5}, {6, 7}};
  Row b = make_row(3, 0, 20);
  b.targets.clear();
  const RowRefs rows = {&a, &b};
  EXPECT_EQ(target_tokens_of(rows), 4);
  EXPECT_EQ(target_weights(rows, LossReduction::token), (std::vector<float>{0.25F, 0}));
  const std::vector<float> weights = {0.25F, 0};
  for (const bool packing : {true, false}) {
    const PackedBatch batch =
        make_micro_batch(rows, std::vector<int64_t>{0, 1}, weights, {.packing = packing});
    std::vector<int64_t> targets = {11, -1, 13, 14, -1, 16, -1, -1, -1, -1};
    std::vector<float> shares = {0.25F, 0, 0.25F, 0.25F, 0, 0.25F, 0, 0, 0, 0};
    targets.resize(batch.ids.size(), -1);  // the padding
    shares.resize(batch.ids.size(), 0);
    EXPECT_EQ(batch.targets, targets) << packing;
    EXPECT_EQ(batch.weights, shares) << packing;
  }
}

// Rows of a template: [1, 2, 3] or [1, 2, 4] and then their own.
Row templated_row(const std::vector<int32_t>& ids, int32_t first_target) {
  Row row;
  row.ids = ids;
  row.targets = {{first_target, static_cast<int32_t>(ids.size())}};
  return row;
}

TEST(MakeMicroBatch, CommonBeginningsStandOnce) {
  const Row a = templated_row({1, 2, 3, 9, 8}, 4);
  const Row b = templated_row({1, 2, 4, 7}, 3);
  const Row c = templated_row({1, 2, 3, 9, 6, 5}, 4);
  const RowRefs rows = {&a, &b, &c};
  const std::vector<float> weights = {0.5F, 0.25F, 0.125F};
  const std::vector<int64_t> which = {2, 1, 0};
  const MicroBatchOptions options{.packing = true, .share_prefixes = true};
  const PackedBatch batch = make_micro_batch(rows, which, weights, options);
  // b's 4 predicts its first target, and so do the 9s of a and c.
  EXPECT_EQ(batch.row_keys, (std::vector<int64_t>{1, 0, 2}));
  EXPECT_EQ(batch.ids, (std::vector<int64_t>{1, 2, 4, 7, 3, 9, 8, 9, 6, 5}));
  EXPECT_EQ(batch.positions, (std::vector<int64_t>{0, 1, 2, 3, 2, 3, 4, 3, 4, 5}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{-1, -1, 7, -1, -1, 8, -1, 6, 5, -1}));
  EXPECT_EQ(batch.weights, (std::vector<float>{0, 0, 0.25F, 0, 0, 0.5F, 0, 0.125F, 0.125F, 0}));
  EXPECT_EQ(batch.row_tokens, (std::vector<int64_t>{0, 1, 2, 3, 0, 1, 4, 5, 6, 0, 1, 4, 7, 8, 9}));
  EXPECT_EQ(batch.segment_starts, (std::vector<int64_t>{0, 4, 9, 15}));
  EXPECT_EQ(batch.segment_lengths, (std::vector<int64_t>{4, 5, 6}));
  EXPECT_EQ(batch.real_tokens, 15);
  EXPECT_EQ(batch.num_row_tokens(), 15);
  EXPECT_EQ(shared_tokens(rows, which, options), 5);
}

TEST(MakeMicroBatch, NothingIsSharedWhereTargetsBegin) {
  const Row a = templated_row({1, 2, 3}, 1);
  const Row b = templated_row({1, 2, 3}, 1);
  const std::vector<int64_t> which = {0, 1};
  const MicroBatchOptions options{.packing = true, .share_prefixes = true};
  const PackedBatch batch = make_micro_batch({&a, &b}, which, std::vector<float>{1, 1}, options);
  EXPECT_EQ(batch.num_tokens(), 6);
  EXPECT_TRUE(batch.row_tokens.empty());
}

TEST(MakeMicroBatch, EveryRowIsWholeInItsSharedTokens) {
  std::vector<Row> all;
  for (int32_t i = 0; i < 60; ++i) {
    std::vector<int32_t> ids(3 + i % 17);
    for (int32_t t = 0; t < std::ssize(ids); ++t) ids[t] = t < 8 ? (i >> (t / 3)) % 2 : i + t;
    all.push_back(templated_row(ids, 1 + (i * 7) % static_cast<int32_t>(ids.size() - 1)));
    if (i % 9 == 0) all.back().targets.clear();
  }
  RowRefs rows;
  for (const Row& row : all) rows.push_back(&row);
  const auto which = all_of(rows.size());
  const std::vector<float> weights(rows.size(), 1.0F);
  const MicroBatchOptions options{.packing = true, .share_prefixes = true};
  const PackedBatch batch = make_micro_batch(rows, which, weights, options);
  EXPECT_EQ(batch.num_tokens() + shared_tokens(rows, which, options), batch.real_tokens);
  EXPECT_LT(batch.num_tokens(), batch.real_tokens);
  int64_t next = 0;  // tokens come up first in their own order
  std::multiset<int64_t> targets;
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    const Row& row = *rows[batch.row_keys[s]];
    ASSERT_EQ(batch.segment_starts[s + 1] - batch.segment_starts[s], std::ssize(row.ids));
    for (int64_t t = 0; t < std::ssize(row.ids); ++t) {
      const int64_t token = batch.row_tokens[batch.segment_starts[s] + t];
      ASSERT_LE(token, next);
      next = std::max(next, token + 1);
      EXPECT_EQ(batch.ids[token], row.ids[t]);
      EXPECT_EQ(batch.positions[token], t);
    }
    for (const TokenSpan& span : row.targets) {
      for (int32_t t = span.begin; t < span.end; ++t) targets.insert(row.ids[t]);
    }
  }
  EXPECT_EQ(next, batch.num_tokens());
  std::multiset<int64_t> wanted(batch.targets.begin(), batch.targets.end());
  wanted.erase(-1);
  EXPECT_EQ(wanted, targets);
}

TEST(MakeStepBatches, RanksAreBalancedByWhatTheyCompute) {
  std::vector<Row> all;
  for (int32_t i = 0; i < 8; ++i) {  // a template of 100 tokens, and 10 of their own
    std::vector<int32_t> ids(110, 3);
    ids[100] = 50 + i;
    all.push_back(templated_row(ids, 101));
  }
  for (int32_t i = 0; i < 4; ++i) all.push_back(templated_row(std::vector<int32_t>(20, 4 + i), 1));
  RowRefs rows;
  for (const Row& row : all) rows.push_back(&row);
  const MicroBatchOptions options{.packing = true, .share_prefixes = true};
  for (int rank = 0; rank < 2; ++rank) {
    const StepBatches step = make_step_batches(rows, LossReduction::token, options, rank, 2);
    ASSERT_EQ(step.mine.size(), 1);
    EXPECT_EQ(step.mine[0].num_tokens(), 100 + 4 * 10 + 2 * 20);
    EXPECT_EQ(step.tokens, 960);
    EXPECT_EQ(step.shared_tokens, 600);
  }
}

TEST(MakeMicroBatch, PaddedRowsHaveOneLength) {
  const Row a = make_row(4, 3, 10);
  const Row b = make_row(2, 1, 20);
  const RowRefs rows = {&a, &b};
  const std::vector<float> weights = {1.0F, 1.0F};
  const std::vector<int64_t> which = {0, 1};
  const PackedBatch batch = make_micro_batch(rows, which, weights, {.packing = false});
  EXPECT_EQ(batch.ids, (std::vector<int64_t>{10, 11, 12, 13, 20, 21, 0, 0}));
  EXPECT_EQ(batch.targets, (std::vector<int64_t>{-1, -1, 13, -1, 21, -1, -1, -1}));
  EXPECT_EQ(batch.segment_starts, (std::vector<int64_t>{0, 4, 8}));
  EXPECT_EQ(batch.segment_lengths, (std::vector<int64_t>{4, 2}));
  EXPECT_EQ(batch.real_tokens, 6);
  EXPECT_EQ(padding_tokens(lengths_of(rows), {which}, {.packing = false}), 2);
}

// The loss's weights add up to what the reduction says, however the rows are spread.
TEST(TargetWeights, AddUpOverAnyDistribution) {
  std::vector<Row> rows;
  for (int32_t i = 0; i < 37; ++i) rows.push_back(make_row(5 + i * 11 % 40, i % 7));
  RowRefs refs;
  for (const Row& row : rows) refs.push_back(&row);
  const auto lengths = lengths_of(refs);
  for (const auto reduction : {LossReduction::token, LossReduction::example}) {
    const auto weights = target_weights(refs, reduction);
    for (const int world : {1, 2, 4, 50}) {
      double total = 0.0;
      int64_t targets = 0;
      for (const auto& mine : balance_rows(lengths, world)) {
        const MicroBatchOptions options{.max_tokens = 64, .packing = world % 2 == 0};
        for (const auto& which : cut_micro_batches(lengths, mine, options)) {
          const PackedBatch batch = make_micro_batch(refs, which, weights, options);
          for (const float w : batch.weights) total += w;
          targets += std::count_if(batch.targets.begin(), batch.targets.end(),
                                   [](int64_t id) { return id >= 0; });
        }
      }
      EXPECT_NEAR(total, 1.0, 1e-6);
      EXPECT_EQ(targets, target_tokens_of(refs));
    }
  }
}

TEST(TargetWeights, ExampleReductionGivesEveryRowTheSameShare) {
  const Row a = make_row(11, 1);  // 10 targets
  const Row b = make_row(3, 1);   // 2 targets
  const RowRefs rows = {&a, &b};
  EXPECT_EQ(target_weights(rows, LossReduction::example), (std::vector<float>{0.05F, 0.25F}));
  EXPECT_EQ(target_weights(rows, LossReduction::token), (std::vector<float>{1.0F / 12, 1.0F / 12}));
}

}  // namespace
}  // namespace emoe::worker
