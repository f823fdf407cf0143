#include "server/job/work_estimate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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

// Rows that the usable ones of the files become, as far as it can be known without tokenising all of them.
int64_t rows_made(const v1::JobSpec& spec, const DataCheck& check, int64_t usable,
                  const std::vector<Row>& sample) {
  const bool messages = data::find_row_format(spec.data().format())->has_messages();
  const bool all = check.sampled == std::ssize(check.rows) && check.sampled > 0;
  // Of texts, and of rows with nothing to learn, the sample says how many rows they become.
  double each = 1.0;
  if (check.sampled > 0 && (!messages || all)) {
    each = static_cast<double>(sample.size()) / static_cast<double>(check.sampled);
  }
  return ceiling(static_cast<double>(usable) * each);
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

struct SampledRows {
  std::vector<Row> rows;
  bool tokenised = true;
  int64_t tokens = 0;
  int64_t longest = 0;

  // What `count` such rows are in a cache.
  [[nodiscard]] CachedRows cached(int64_t count) const {
    return {count, tokens * count / std::ssize(rows)};
  }
};

SampledRows sampled_rows(const v1::JobSpec& spec, const DataCheck& check) {
  SampledRows sample{.rows = cut(check.sample, spec.data().max_length())};
  sample.tokenised = !sample.rows.empty();
  if (!sample.tokenised) sample.rows = longest_possible(spec);
  for (const Row& row : sample.rows) {
    sample.longest = std::max(sample.longest, std::ssize(row.ids));
    sample.tokens += std::ssize(row.ids);
  }
  return sample;
}

// Rows that are evaluated, `usable` of the files: as many of them as a caller waits for; how many of those
// there are.
int64_t look_at_eval(const v1::JobSpec& spec, const DataCheck& check, int64_t usable,
                     WorkEstimate& into) {
  const SampledRows sample = sampled_rows(spec, check);
  int64_t rows = rows_made(spec, check, usable, sample.rows);
  if (!sample.tokenised) rows = std::max<int64_t>(rows, 1);
  into.longest_row = std::max(into.longest_row, sample.longest);
  const int64_t most = kMostTokens * std::ssize(sample.rows) / std::max<int64_t>(sample.tokens, 1);
  std::vector<int64_t> numbers(
      static_cast<size_t>(std::clamp<int64_t>(rows, 1, std::max<int64_t>(most, 1))));
  std::iota(numbers.begin(), numbers.end(), 0);
  Steps(spec, sample.rows).look_at(numbers, into);
  const double all = static_cast<double>(rows) / static_cast<double>(numbers.size());
  for (int64_t* figure : {&into.all.tokens, &into.all.target_tokens, &into.all.squared_lengths}) {
    scale(*figure, all);
  }
  into.cached.push_back(sample.cached(rows));
  into.upper_bound = !sample.tokenised;
  into.exact = sample.tokenised && rows == std::ssize(sample.rows) && rows == std::ssize(numbers);
  return rows;
}

std::optional<WorkEstimate> estimate_evaluation(const v1::JobSpec& spec, const SpecFacts& facts) {
  if (!facts.eval && !facts.suite) return std::nullopt;
  WorkEstimate work;
  if (facts.eval) work.rows = look_at_eval(spec, *facts.eval, std::ssize(facts.eval->rows), work);
  work.suite = facts.suite;
  if (!facts.suite) return work;
  const SuiteFacts& suite = *facts.suite;
  work.exact = false;
  work.rows += suite.rows();
  work.all.tokens += suite.tokens;
  work.all.target_tokens += suite.rows();
  work.all.squared_lengths += suite.tokens * suite.longest;
  work.longest_row = std::max(work.longest_row, suite.longest);
  return work;
}

// What a training's own evaluations compute at once, and cache.
void add_evaluations(const v1::JobSpec& spec, const SpecFacts& facts, WorkEstimate& work) {
  WorkEstimate of_rows;
  if (facts.eval) {
    (void)look_at_eval(spec, *facts.eval, std::ssize(facts.eval->rows), of_rows);
  } else if (facts.held_out > 0) {
    (void)look_at_eval(spec, *facts.train, facts.held_out, of_rows);
  }
  work.longest_evaluated = of_rows.longest_row;
  work.evaluated = std::move(of_rows.micro_batches);
  work.cached.insert(work.cached.end(), of_rows.cached.begin(), of_rows.cached.end());
  work.suite = facts.suite;
}

}  // namespace

std::optional<WorkEstimate> estimate_work(const v1::JobSpec& resolved, const SpecFacts& facts) {
  if (resolved.task() == "evaluate") return estimate_evaluation(resolved, facts);
  if (resolved.task() != "train" || !facts.train) return std::nullopt;
  const SampledRows sample = sampled_rows(resolved, *facts.train);
  WorkEstimate work;
  work.rows = rows_made(resolved, *facts.train, facts.train_rows, sample.rows);
  if (!sample.tokenised) work.rows = std::max<int64_t>(work.rows, 1);
  auto plan = worker::BatchPlan::make(work.rows, worker::batch_plan_of(resolved));
  if (!plan.ok()) return std::nullopt;
  work.steps = plan->steps();
  Steps steps(resolved, sample.rows);
  int64_t looked = 0;
  while (looked < work.steps && work.all.tokens < kMostTokens) {
    steps.look_at(plan->rows_of_step(looked++), work);
  }
  const double all_of_them = static_cast<double>(work.steps) / static_cast<double>(looked);
  for (int64_t* figure : {&work.all.tokens, &work.all.target_tokens, &work.all.squared_lengths}) {
    scale(*figure, all_of_them);
  }
  work.longest_row = sample.longest;
  work.upper_bound = !sample.tokenised;
  work.exact = sample.tokenised && work.rows == std::ssize(sample.rows) && looked == work.steps;
  work.cached.push_back(sample.cached(work.rows));
  add_evaluations(resolved, facts, work);
  return work;
}

MicroBatch suite_pass(const SuiteFacts& suite, int64_t micro_batch_tokens) {
  const int64_t tokens = std::min(kSuitePass * micro_batch_tokens, suite.tokens);
  if (tokens <= 0) return {};
  return {tokens, std::max<int64_t>(suite.rows() * tokens / suite.tokens, 1)};
}

}  // namespace emoe::server
