#include "worker/eval/suite_evaluation.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>
#include <tuple>

#include <ATen/ATen.h>
#include <absl/strings/str_cat.h>

#include "base/parallel.h"
#include "worker/errors.h"

namespace emoe::worker {
namespace {

// What a rank tells of a question: four scores, and the number of shots + 1 (0: not scored).
constexpr size_t kNumbers = 5;

struct Place {
  size_t subject;
  size_t question;
};

std::vector<Place> places_of(const ChoiceSuite& suite) {
  std::vector<Place> places;
  for (size_t s = 0; s < suite.subjects.size(); ++s) {
    for (size_t q = 0; q < suite.subjects[s].questions.size(); ++q) places.push_back({s, q});
  }
  return places;
}

double cost_of(const data::ChoiceQuestion& question) {
  size_t bytes = question.question.size();
  for (const std::string& choice : question.choices) bytes += choice.size();
  return static_cast<double>(bytes + 64);  // with the text around them, and four letters
}

// A part of the questions that costs as much as every other rank's: [first, last).
std::pair<size_t, size_t> share_of(const ChoiceSuite& suite, const std::vector<Place>& places,
                                   const HostGroup& host) {
  std::vector<double> sums;
  double sum = 0.0;
  for (const auto& [s, q] : places) {
    const double cost = cost_of(suite.subjects[s].questions[q]);
    sums.push_back(sum + cost / 2);
    sum += cost;
  }
  const auto border = [&](int rank) {
    const double at = sum * rank / host.world_size();
    return static_cast<size_t>(std::ranges::lower_bound(sums, at) - sums.begin());
  };
  return {border(host.rank()), border(host.rank() + 1)};
}

int64_t common_beginning(const std::vector<int32_t>& a, const std::vector<int32_t>& b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

Row without_beginning(Row row, int64_t tokens) {
  row.ids.erase(row.ids.begin(), row.ids.begin() + tokens);
  for (TokenSpan& span : row.targets) {
    span.begin -= static_cast<int32_t>(tokens);
    span.end -= static_cast<int32_t>(tokens);
  }
  return row;
}

}  // namespace

SuiteEvaluation::SuiteEvaluation(const ChoiceSuite& suite, const Tokenizer& tokenizer,
                                 HostGroup& host, const Options& options)
    : suite_(suite) {
  tokenise(tokenizer, host, options);
  cut_passes(options);
  std::array<double, 1> most = {static_cast<double>(passes())};
  host.max(most);
  rounds_ = static_cast<int64_t>(most[0]);
}

void SuiteEvaluation::tokenise(const Tokenizer& tokenizer, const HostGroup& host,
                               const Options& options) {
  const std::vector<Place> places = places_of(suite_);
  questions_ = places.size();
  const std::pair<size_t, size_t> share = share_of(suite_, places, host);
  const size_t first = share.first;
  std::vector<std::optional<ChoiceItem>> tokens(share.second - first);
  in_parts(options.threads, std::ssize(tokens), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto [s, q] = places[first + static_cast<size_t>(i)];
      const data::ChoiceSubject& subject = suite_.subjects[s];
      tokens[i] = choice_item(subject, subject.questions[q], tokenizer, suite_.max_length);
      options.on_work_done();
    }
  });
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (!tokens[i]) continue;
    items_.push_back({first + i, places[first + i].subject, *std::move(tokens[i])});
  }
}

// What all of them begin with, less the last token that the four rows of one have in common: it
// predicts their letters.
std::span<const int32_t> SuiteEvaluation::beginning_of(std::span<const Item> items) {
  const std::vector<int32_t>& first = items.front().tokens.common;
  int64_t length = std::ssize(first);
  for (const Item& item : items) {
    const std::vector<int32_t>& common = item.tokens.common;
    length = std::min({length, std::ssize(common) - 1, common_beginning(first, common)});
  }
  return std::span(first).first(static_cast<size_t>(length));
}

// Subjects whose questions fit into one pass share passes with others.
void SuiteEvaluation::cut_passes(const Options& options) {
  constexpr size_t kWorthAPass = 16;  // tokens; a pass of few costs as much as one of more
  std::ranges::sort(items_, {}, [](const Item& item) {
    return std::tuple(item.subject, -item.tokens.shots, item.tokens.common.size(), item.place);
  });
  const Item* const end = items_.data() + items_.size();
  const Item* open = items_.data();
  for (const Item* first = open; first != end;) {
    const Item* last = std::find_if(first, end, [&](const Item& item) {
      return item.subject != first->subject || item.tokens.shots != first->tokens.shots;
    });
    const std::span<const Item> alike(first, last);
    const std::span<const int32_t> beginning = beginning_of(alike);
    auto tokens = std::ssize(beginning);
    for (const Item& item : alike) tokens += item.tokens.own_tokens(std::ssize(beginning));
    if (tokens > options.max_tokens && beginning.size() >= kWorthAPass) {
      cut({open, first}, {}, options);
      passes_.push_back({.beginning = beginning, .items = {}});
      cut(alike, beginning, options);
      open = last;
    }
    first = last;
  }
  cut({open, end}, {}, options);
}

void SuiteEvaluation::cut(std::span<const Item> items, std::span<const int32_t> beginning,
                          const Options& options) {
  // Where attention makes rows whole, it has memory for so many tokens of them.
  const int64_t most_in_rows =
      options.whole_rows ? 8 * options.max_tokens : std::numeric_limits<int64_t>::max();
  size_t begin = 0;
  int64_t computed = 0;
  int64_t in_rows = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    const ChoiceItem& item = items[i].tokens;
    const int64_t known = i == begin ? std::ssize(beginning)
                                     : common_beginning(item.common, items[i - 1].tokens.common);
    const int64_t rows = item.own_tokens(0) + 3 * std::ssize(item.common);
    const bool fits =
        computed + item.own_tokens(known) <= options.max_tokens && in_rows + rows <= most_in_rows;
    if (i > begin && !fits) {
      passes_.push_back({beginning, items.subspan(begin, i - begin)});
      begin = i;
      computed = in_rows = 0;
    }
    computed += item.own_tokens(i == begin ? std::ssize(beginning) : known);
    in_rows += rows;
  }
  if (begin < items.size()) passes_.push_back({beginning, items.subspan(begin)});
}

void SuiteEvaluation::score(Model& model, const ForwardOptions& forward,
                            std::span<const Item> items, std::span<double> answers) const {
  constexpr size_t kLetters = data::kChoiceLetters.size();
  const int64_t before = forward.before == nullptr ? 0 : forward.before->length;
  std::vector<Row> rows;
  for (const Item& item : items) {
    for (size_t c = 0; c < kLetters; ++c) {
      rows.push_back(without_beginning(item.tokens.row(static_cast<int>(c)), before));
    }
    answers[item.place * kNumbers + kLetters] = static_cast<double>(item.tokens.shots + 1);
  }
  RowRefs refs;
  for (const Row& row : rows) refs.push_back(&row);
  std::vector<int64_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0);
  const std::vector<float> no_weights(rows.size());
  PackedBatch batch =
      make_micro_batch(refs, all, no_weights, {.packing = true, .share_prefixes = true});
  for (int64_t& position : batch.positions) position += before;
  const at::Tensor losses = model.token_losses(batch, forward).to(at::kCPU, at::kDouble);
  const auto* loss = losses.const_data_ptr<double>();
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    const auto key = static_cast<size_t>(batch.row_keys[s]);
    double& score = answers[items[key / kLetters].place * kNumbers + key % kLetters];
    for (const TokenSpan& span : rows[key].targets) {
      for (int32_t t = span.begin; t < span.end; ++t) {
        const int64_t at = batch.segment_starts[s] + t - 1;
        score -= loss[batch.row_tokens.empty() ? at : batch.row_tokens[at]];
      }
    }
  }
}

std::optional<SuiteResult> SuiteEvaluation::ask(Model& model, bool experts_on, HostGroup& host,
                                                const Calls& calls) const {
  std::vector<double> answers(questions_ * kNumbers);
  const ForwardOptions plain{.experts_on = experts_on};
  KvCache cache;
  for (int64_t i = 0; i < rounds_; ++i) {
    if (calls.stopped()) return std::nullopt;
    if (i >= passes()) {
      if (model.passes_are_collective()) (void)model.token_losses(idle_batch(), plain);
      continue;
    }
    const auto& [beginning, items] = passes_[i];
    if (items.empty()) {
      cache = {};
      (void)model.next_token_logits({beginning.begin(), beginning.end()}, cache, plain);
    } else {
      ForwardOptions forward = plain;
      if (!beginning.empty()) forward.before = &cache;
      score(model, forward, items, answers);
    }
    calls.done();
  }
  host.sum(answers);
  return result_of(answers);
}

SuiteResult SuiteEvaluation::result_of(std::span<const double> answers) const {
  SuiteResult result{
      .suite = suite_.name, .shots = suite_.shots, .split = suite_.split, .subjects = {}};
  for (const data::ChoiceSubject& subject : suite_.subjects) {
    SubjectResult& of_subject = result.subjects.emplace_back();
    of_subject.name = subject.name;
    for (const data::ChoiceQuestion& question : subject.questions) {
      SuiteAnswer answer{.row = question.row, .answer = question.answer};
      std::copy_n(answers.begin(), answer.scores.size(), answer.scores.begin());
      const auto shots = static_cast<int64_t>(answers[kNumbers - 1]);
      answers = answers.subspan(kNumbers);
      if (shots == 0) {
        of_subject.unscored.push_back(question.row);
        continue;
      }
      for (const double score : answer.scores) {
        if (std::isfinite(score)) continue;
        throw NonFiniteError(absl::StrCat("the score of a question of ", suite_.name, ", ",
                                          subject.name, ", row ", question.row, " is not finite"));
      }
      answer.shots = shots - 1;
      of_subject.questions.push_back(answer);
    }
  }
  return result;
}

}  // namespace emoe::worker
