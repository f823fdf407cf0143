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
// questions of a subject stay together, those of about equal length follow one another, and what they
// begin with, the shots, is computed once: in the pass that has them all, or, where they take several,
// in one of its own, whose keys and values the others go on from.
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
  [[nodiscard]] int64_t passes() const { return std::ssize(passes_); }
  // No question is short enough; the same on every rank.
  [[nodiscard]] bool scores_nothing() const { return rounds_ == 0; }

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
  // Without questions: makes the keys and values of `beginning`. With both: goes on from these.
  struct Pass {
    std::span<const int32_t> beginning;
    std::span<const Item> items;
  };
  void tokenise(const Tokenizer& tokenizer, const HostGroup& host, const Options& options);
  void cut_passes(const Options& options);
  void cut(std::span<const Item> items, std::span<const int32_t> beginning, const Options& options);
  static std::span<const int32_t> beginning_of(std::span<const Item> items);
  void score(Model& model, const ForwardOptions& forward, std::span<const Item> items,
             std::span<double> answers) const;
  [[nodiscard]] SuiteResult result_of(std::span<const double> answers) const;

  const ChoiceSuite& suite_;
  size_t questions_ = 0;
  std::vector<Item> items_;  // this rank's
  std::vector<Pass> passes_;
  int64_t rounds_ = 0;  // passes of the rank that has most
};

}  // namespace emoe::worker
