#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/choice_suite.h"
#include "worker/batching/micro_batches.h"
#include "worker/comm/host_group.h"
#include "worker/eval/choice_item.h"
#include "worker/model/model.h"
#include "worker/report/suite_result.h"

namespace emoe::worker {

// A suite as a job asks for it.
struct ChoiceSuite {
  std::string name;  // "mmlu"
  int64_t shots = 0;
  std::string split;
  int64_t max_length = 0;  // tokens of a question with its shots
  std::vector<data::ChoiceSubject> subjects;
};

// One rank's share of a suite's questions, as tokens, to be put to a model as often as one likes. The
// questions of a subject stay together, so that what they begin with, the shots, is computed once in
// a forward pass of many; those of about equal length follow one another.
//
// A letter's score is the sum of the log-probabilities of its tokens behind what the four rows have
// in common; the highest is the model's answer.
class SuiteEvaluation {
 public:
  struct Options {
    int64_t max_tokens = 4096;  // computed in one forward pass
    // Attention makes rows whole (where there is no shared_attention()), which takes memory.
    bool whole_rows = true;
    int threads = 1;  // to tokenise with
    std::function<void()> on_work_done = [] {};
  };
  // Collective over the ranks of `host`, all of which have the same suite. `suite` outlives this.
  SuiteEvaluation(const ChoiceSuite& suite, const Tokenizer& tokenizer, HostGroup& host,
                  const Options& options);

  // This rank's forward passes for one ask().
  [[nodiscard]] int64_t batches() const { return std::ssize(batches_); }

  struct Calls {
    std::function<void()> done;     // after each of its forward passes
    std::function<bool()> stopped;  // before each, on all ranks alike: true ends it
  };
  // The same result on every rank; nothing after a stop. Collective. NonFiniteError for a score that is
  // not finite.
  [[nodiscard]] std::optional<SuiteResult> ask(Model& model, bool experts_on, HostGroup& host,
                                               const Calls& calls) const;

 private:
  struct Item {
    size_t place;  // among all questions of the suite
    size_t subject;
    ChoiceItem tokens;
  };
  void tokenise(const Tokenizer& tokenizer, const HostGroup& host, const Options& options);
  void cut_batches(const Options& options);
  void score(Model& model, bool experts_on, std::span<const Item> items,
             std::span<double> answers) const;
  [[nodiscard]] SuiteResult result_of(std::span<const double> answers) const;

  const ChoiceSuite& suite_;
  size_t questions_ = 0;
  std::vector<Item> items_;  // this rank's
  std::vector<std::span<const Item>> batches_;
  int64_t rounds_ = 0;  // batches of the rank that has most
};

}  // namespace emoe::worker
