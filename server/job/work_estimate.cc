#include "server/job/work_estimate.h"

#include <algorithm>
#include <cmath>

#include "config/config.h"
#include "data/row_format.h"
#include "worker/batching/micro_batches.h"
#include "worker/train/batch_plan.h"
#include "worker/train/plan_options.h"

namespace emoe::server {
namespace {

// More tokens than these are not dealt out for one answer.
constexpr int64_t kMostTokens = 2'000'000;
// The rows of a step are dealt out evenly: the first ranks stand for all.
constexpr int kMostRanks = 8;

int64_t ceiling(double value) {
  return static_cast<int64_t>(std::ceil(value));
}

// Rows that an epoch has, as far as it can be known without tokenising all of them.
int64_t rows_of_epoch(const v1::JobSpec& spec, const SpecFacts& facts,
                      const std::vector<Row>& sample) {
  const DataCheck& check = *facts.train;
  const bool messages = data::find_row_format(spec.data().format())->has_messages();
  const bool all = check.sampled == std::ssize(check.rows) && check.sampled > 0;
  const auto taken = static_cast<double>(facts.train_rows);
  // Of texts, and of rows with nothing to learn, the sample says how many rows they become.
  double each = 1.0;
  if (check.sampled > 0 && (!messages || all)) {
    each = static_cast<double>(sample.size()) / static_cast<double>(check.sampled);
  }
  return ceiling(spec.data().fraction() * taken * each);
}

// Where nothing was tokenised, the largest row that there may be.
std::vector<Row> longest_possible(const v1::JobSpec& spec) {
  const int32_t length = spec.data().max_length();
  return {{.ids = std::vector<int32_t>(static_cast<size_t>(length), 1), .targets = {{1, length}}}};
}

// As data.max_length cuts them, which may be shorter than when they were tokenised.
std::vector<Row> cut(const std::vector<Row>& rows, int32_t length) {
  std::vector<Row> all;
  for (Row row : rows) {
    if (std::ssize(row.ids) > length) row.ids.resize(static_cast<size_t>(length));
    std::erase_if(row.targets, [&](const TokenSpan& span) { return span.begin >= length; });
    for (TokenSpan& span : row.targets) span.end = std::min(span.end, length);
    if (!row.targets.empty()) all.push_back(std::move(row));
  }
  return all;
}

class Steps {
 public:
  Steps(const v1::JobSpec& spec, const std::vector<Row>& sample)
      : sample_(sample),
        options_(worker::micro_batches_of(spec)),
        ranks_(config::replicas_of(spec)) {}

  void look_at(const std::vector<int64_t>& numbers, WorkEstimate& into) {
    worker::RowRefs rows;
    for (const int64_t number : numbers) {
      rows.push_back(&sample_[static_cast<size_t>(number % std::ssize(sample_))]);
    }
    for (int rank = 0; rank < std::min(ranks_, kMostRanks); ++rank) {
      const auto batches =
          worker::make_step_batches(rows, worker::LossReduction::token, options_, rank, ranks_);
      for (const worker::PackedBatch& batch : batches.mine) {
        const auto targets =
            std::ranges::count_if(batch.targets, [](int64_t target) { return target >= 0; });
        into.micro_batches.push_back({batch.num_tokens(), targets});
      }
      if (rank > 0) continue;  // figures of the whole step
      into.all.tokens += batches.tokens;
      into.all.target_tokens += batches.target_tokens;
      into.all.squared_lengths += batches.squared_lengths;
    }
  }

 private:
  const std::vector<Row>& sample_;
  const worker::MicroBatchOptions options_;
  const int ranks_;
};

void scale(int64_t& figure, double by) {
  figure = std::llround(static_cast<double>(figure) * by);
}

}  // namespace

std::optional<WorkEstimate> estimate_work(const v1::JobSpec& resolved, const SpecFacts& facts) {
  if (resolved.task() != "train" || !facts.train) return std::nullopt;
  std::vector<Row> sample = cut(facts.train->sample, resolved.data().max_length());
  const bool tokenised = !sample.empty();
  WorkEstimate work;
  work.rows = rows_of_epoch(resolved, facts, sample);
  if (!tokenised) sample = longest_possible(resolved);
  if (!tokenised) work.rows = std::max<int64_t>(work.rows, 1);
  auto plan = worker::BatchPlan::make(work.rows, worker::batch_plan_of(resolved));
  if (!plan.ok()) return std::nullopt;
  work.steps = plan->steps();
  Steps steps(resolved, sample);
  int64_t looked = 0;
  while (looked < work.steps && work.all.tokens < kMostTokens) {
    steps.look_at(plan->rows_of_step(looked++), work);
  }
  const double all_of_them = static_cast<double>(work.steps) / static_cast<double>(looked);
  for (int64_t* figure : {&work.all.tokens, &work.all.target_tokens, &work.all.squared_lengths}) {
    scale(*figure, all_of_them);
  }
  int64_t sampled_tokens = 0;
  for (const Row& row : sample) {
    work.longest_row = std::max(work.longest_row, std::ssize(row.ids));
    sampled_tokens += std::ssize(row.ids);
  }
  work.epoch_tokens = sampled_tokens * work.rows / std::ssize(sample);
  work.exact = tokenised && work.rows == std::ssize(sample) && looked == work.steps;
  return work;
}

}  // namespace emoe::server
