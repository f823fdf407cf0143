#include "worker/eval/evaluation.h"

#include <cmath>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/loopback_group.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/errors.h"

namespace emoe::worker {
namespace {

EvalRecord evaluate_on(const testing::TinyModel& tiny, const std::vector<Row>& rows, int world,
                       const MicroBatchOptions& options) {
  at::set_num_threads(1);
  auto comms = testing::make_loopback_group(world);
  std::vector<EvalRecord> records(world);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < world; ++rank) {
      threads.emplace_back([&, rank] {
        const auto model = testing::make_tiny_model(tiny);
        testing::RecordingSink sink;
        records[rank] = evaluate(*model, rows, *comms[rank], sink, {options, 7, nullptr}).value();
      });
    }
  }
  for (const EvalRecord& record : records) {
    EXPECT_EQ(record.loss, records[0].loss);
    EXPECT_EQ(record.loss_dense, records[0].loss_dense);
  }
  return records[0];
}

// Row by row, from the logits, in double.
double loss_from_logits(Decoder& model, const std::vector<Row>& rows, bool experts_on) {
  double sum = 0.0;
  int64_t targets = 0;
  for (const Row& row : rows) {
    const RowRefs refs = {&row};
    const std::vector<int64_t> which = {0};
    const std::vector<float> weights = {1.0F};
    const PackedBatch batch = make_micro_batch(refs, which, weights, {});
    const at::Tensor log_p =
        model.logits(batch, {.experts_on = experts_on}).to(at::kDouble).log_softmax(1);
    for (auto t = row.targets[0].begin; t < row.targets[0].end; ++t) {
      sum -= log_p[t - 1][row.ids[t]].item<double>();
      ++targets;
    }
  }
  return sum / static_cast<double>(targets);
}

TEST(Evaluation, IsTheMeanOverTargetsWithTheMaskOnAndOff) {
  const testing::TinyModel tiny{.experts = 6};
  const auto rows = testing::tiny_rows(15, 9);
  const EvalRecord record = evaluate_on(tiny, rows, 1, {.max_tokens = 50});
  const auto model = testing::make_tiny_model(tiny);
  EXPECT_NEAR(record.loss, loss_from_logits(*model, rows, true), 2e-6);
  EXPECT_NEAR(record.loss_dense, loss_from_logits(*model, rows, false), 2e-6);
  EXPECT_GT(std::abs(record.loss - record.loss_dense), 1e-4);
  EXPECT_EQ(record.perplexity, std::exp(record.loss_dense));
  EXPECT_EQ(record.step, 7);
  int64_t targets = 0;
  for (const Row& row : rows) targets += row.target_tokens();
  EXPECT_EQ(record.target_tokens, targets);
}

TEST(Evaluation, DependsOnNeitherRanksNorMicroBatchesNorPacking) {
  const testing::TinyModel tiny{.experts = 6};
  const auto rows = testing::tiny_rows(15, 9);
  const EvalRecord base = evaluate_on(tiny, rows, 1, {.max_tokens = 50});
  for (const int world : {1, 2, 3, 4, 20}) {
    for (const MicroBatchOptions& options :
         {MicroBatchOptions{1, true}, MicroBatchOptions{500, true}, MicroBatchOptions{60, false}}) {
      const EvalRecord other = evaluate_on(tiny, rows, world, options);
      EXPECT_NEAR(other.loss, base.loss, 1e-7 * base.loss) << world;
      EXPECT_NEAR(other.loss_dense, base.loss_dense, 1e-7 * base.loss) << world;
    }
  }
}

TEST(Evaluation, ADenseModelHasOneLoss) {
  const EvalRecord record = evaluate_on({}, testing::tiny_rows(5, 1), 2, {});
  EXPECT_EQ(record.loss, record.loss_dense);
}

// A rank that evaluates for hours is not to be taken for one that hangs.
TEST(Evaluation, TellsOfEachMicroBatch) {
  const auto host = make_single_rank_group();
  const auto rows = testing::tiny_rows(15, 9);
  const MicroBatchOptions one_row{.max_tokens = 1};
  for (const int32_t experts : {0, 6}) {
    const auto model = testing::make_tiny_model({.experts = experts});
    testing::RecordingSink sink;
    (void)evaluate(*model, rows, *host, sink, {one_row, 0, nullptr});
    EXPECT_EQ(sink.work_done, experts == 0 ? 15 : 30);  // mask off, and on
    ASSERT_EQ(std::ssize(sink.eval_progress), sink.work_done);
    for (int64_t i = 0; i < sink.work_done; ++i) {
      EXPECT_EQ(sink.eval_progress[static_cast<size_t>(i)].done, i + 1);
      EXPECT_EQ(sink.eval_progress[static_cast<size_t>(i)].planned, sink.work_done);
    }
  }
}

// One rank of three is asked to stop: all leave before the same micro-batch.
TEST(Evaluation, StopsOnAllRanksTogether) {
  at::set_num_threads(1);
  const int world = 3;
  const auto rows = testing::tiny_rows(5, 9);
  for (const int calm : {0, 1, 100}) {  // micro-batches before the stop
    auto comms = testing::make_loopback_group(world);
    std::vector<std::optional<EvalRecord>> records(world);
    std::vector<int64_t> work(world);
    {
      std::vector<std::jthread> threads;
      for (int rank = 0; rank < world; ++rank) {
        threads.emplace_back([&, rank] {
          const auto model = testing::make_tiny_model({.experts = 6});
          testing::RecordingSink sink;
          int asked = 0;
          const auto stop = [&, rank] { return rank == 1 && asked++ >= calm; };
          records[rank] = evaluate(*model, rows, *comms[rank], sink, {{.max_tokens = 1}, 0, stop});
          work[rank] = sink.work_done;
        });
      }
    }
    for (int rank = 0; rank < world; ++rank) {
      EXPECT_EQ(records[rank].has_value(), calm == 100);
      if (calm < 100) {
        EXPECT_EQ(work[rank], calm) << "rank " << rank;
      }
    }
  }
}

TEST(Evaluation, RefusesNanAndRowsWithoutTargets) {
  const auto host = make_single_rank_group();
  testing::RecordingSink sink;
  const auto bad = testing::make_tiny_model({.poisoned = true});
  EXPECT_THROW((void)evaluate(*bad, testing::tiny_rows(3, 1), *host, sink, {}), NonFiniteError);
  const auto model = testing::make_tiny_model({});
  Row row;
  row.ids = {1};
  EXPECT_THROW((void)evaluate(*model, std::vector<Row>{row}, *host, sink, {}),
               std::invalid_argument);
}

}  // namespace
}  // namespace emoe::worker
