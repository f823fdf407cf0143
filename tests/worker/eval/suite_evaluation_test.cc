#include "worker/eval/suite_evaluation.h"

#include <sstream>
#include <thread>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>

#include "base/counter_random.h"
#include "tests/worker/comm/loopback_group.h"
#include "tests/worker/train/tiny_run.h"
#include "worker/errors.h"
#include "worker/eval/evaluation.h"

namespace emoe::worker {
namespace {

constexpr int32_t kBos = 1;

// A token for each word, by its hash; two for a letter alone, which here stand for a longer answer.
class WordTokenizer final : public Tokenizer {
 public:
  WordTokenizer() : Tokenizer("words", "", {}) {}
  [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const override {
    std::vector<int32_t> ids{kBos};
    std::istringstream words(text);
    for (std::string word; words >> word;) {
      ids.push_back(static_cast<int32_t>(2 + name_key(word) % 40));
      if (word == "B") ids.push_back(44);
    }
    return ids;
  }
  [[nodiscard]] std::string decode(std::span<const int32_t> /*ids*/) const override { return ""; }
  void encode_words(std::string_view /*stretch*/, bool /*first*/,
                    std::vector<int32_t>& /*ids*/) const override {}
  [[nodiscard]] int32_t pieces() const override { return 48; }
  [[nodiscard]] int32_t vocab_size() const override { return 48; }
};

data::ChoiceQuestion question(int64_t row, int words) {
  data::ChoiceQuestion question{.question = "Which",
                                .choices = {"one", "two", "three", "four"},
                                .answer = static_cast<int>(row % 4),
                                .row = row};
  for (int i = 0; i < words; ++i) question.question += " w" + std::to_string(row * 7 + i);
  return question;
}

ChoiceSuite suite(int64_t max_length = 200) {
  ChoiceSuite suite{
      .name = "mmlu", .shots = 3, .split = "val", .max_length = max_length, .subjects = {}};
  for (const char* name : {"birds", "big_fish", "cats"}) {
    data::ChoiceSubject& subject = suite.subjects.emplace_back();
    subject.name = name;
    for (int64_t i = 0; i < 3; ++i) subject.shots.push_back(question(100 + i, 4));
    for (int64_t i = 0; i < 5; ++i) {
      subject.questions.push_back(question(i, static_cast<int>(3 + 5 * i)));
    }
  }
  return suite;
}

SuiteResult ask(const ChoiceSuite& suite, const testing::TinyModel& tiny, bool experts_on,
                int world, int64_t max_tokens) {
  at::set_num_threads(1);
  auto comms = testing::make_loopback_group(world);
  std::vector<SuiteResult> results(world);
  {
    std::vector<std::jthread> threads;
    for (int rank = 0; rank < world; ++rank) {
      threads.emplace_back([&, rank] {
        const auto model = testing::make_tiny_model(tiny);
        const SuiteEvaluation evaluation(suite, WordTokenizer(), *comms[rank],
                                         {.max_tokens = max_tokens, .threads = 2});
        int64_t passes = 0;
        results[rank] = evaluation
                            .ask(*model, experts_on, *comms[rank],
                                 {.done = [&] { ++passes; }, .stopped = [] { return false; }})
                            .value();
        EXPECT_EQ(passes, evaluation.passes());
      });
    }
  }
  for (const SuiteResult& result : results) EXPECT_EQ(result.to_json(), results[0].to_json());
  return results[0];
}

// A decoder that counts the tokens it computes.
class CountingModel final : public Model {
 public:
  explicit CountingModel(Model& model) : model_(model) {}
  [[nodiscard]] const ModelOptions& options() const override { return model_.options(); }
  void forward(const PackedBatch& batch, const ForwardOptions& forward) override {
    model_.forward(batch, forward);
  }
  void backward() override { model_.backward(); }
  [[nodiscard]] double take_loss() override { return model_.take_loss(); }
  [[nodiscard]] at::Tensor token_losses(const PackedBatch& batch,
                                        const ForwardOptions& forward) override {
    tokens += batch.num_tokens();
    return model_.token_losses(batch, forward);
  }
  [[nodiscard]] at::Tensor logits(const PackedBatch& batch,
                                  const ForwardOptions& forward) override {
    tokens += batch.num_tokens();
    return model_.logits(batch, forward);
  }
  [[nodiscard]] at::Tensor next_token_logits(const std::vector<int64_t>& ids, KvCache& cache,
                                             const ForwardOptions& forward) override {
    tokens += std::ssize(ids);
    return model_.next_token_logits(ids, cache, forward);
  }
  [[nodiscard]] std::vector<Parameter>& parameters() override { return model_.parameters(); }
  [[nodiscard]] const std::vector<Parameter>& parameters() const override {
    return model_.parameters();
  }
  void parameters_changed() override { model_.parameters_changed(); }
  [[nodiscard]] bool passes_are_collective() const override {
    return model_.passes_are_collective();
  }
  void use_ffn(const std::string& name) override { model_.use_ffn(name); }
  [[nodiscard]] std::map<std::string, double> time_ffns(int64_t count) override {
    return model_.time_ffns(count);
  }

  int64_t tokens = 0;

 private:
  Model& model_;
};

// One row after the other, from the logits, as the definition has it.
std::array<double, 4> plain_scores(Decoder& model, const ChoiceItem& item, bool experts_on) {
  std::array<double, 4> scores{};
  for (int letter = 0; letter < 4; ++letter) {
    const Row row = item.row(letter);
    const std::vector<int64_t> ids(row.ids.begin(), row.ids.end() - 1);
    const at::Tensor log_p =
        model.logits(one_segment(ids), {.experts_on = experts_on}).to(at::kDouble).log_softmax(1);
    for (size_t t = item.common.size(); t < row.ids.size(); ++t) {
      scores[letter] += log_p[static_cast<int64_t>(t) - 1][row.ids[t]].item<double>();
    }
  }
  return scores;
}

TEST(SuiteEvaluation, EachLetterHasTheLogProbabilityOfItsTokens) {
  const testing::TinyModel tiny{.experts = 6, .separated = true};
  const ChoiceSuite all = suite();
  const auto model = testing::make_tiny_model(tiny);
  // In passes of several subjects, and in several passes a subject.
  for (const auto& [experts_on, max_tokens] :
       std::vector<std::pair<bool, int64_t>>{{false, 400}, {true, 400}, {false, 90}, {true, 90}}) {
    const SuiteResult result = ask(all, tiny, experts_on, 1, max_tokens);
    for (size_t s = 0; s < all.subjects.size(); ++s) {
      ASSERT_EQ(result.subjects[s].questions.size(), 5u);
      for (size_t q = 0; q < 5; ++q) {
        const auto item = choice_item(all.subjects[s], all.subjects[s].questions[q],
                                      WordTokenizer(), all.max_length);
        const auto expected = plain_scores(*model, *item, experts_on);
        const SuiteAnswer& answer = result.subjects[s].questions[q];
        for (int i = 0; i < 4; ++i) EXPECT_NEAR(answer.scores[i], expected[i], 2e-5) << s << q;
        EXPECT_EQ(answer.shots, 3);
        EXPECT_EQ(answer.answer, static_cast<int>(q % 4));
      }
    }
  }
}

TEST(SuiteEvaluation, WhatASubjectsQuestionsBeginWithIsComputedOnce) {
  const ChoiceSuite all = suite();
  int64_t tokens = 0;  // with its header and shots once a subject
  for (const data::ChoiceSubject& subject : all.subjects) {
    std::vector<ChoiceItem> items;
    for (const data::ChoiceQuestion& asked : subject.questions) {
      items.push_back(*choice_item(subject, asked, WordTokenizer(), all.max_length));
    }
    int64_t beginning = std::ssize(items[0].common);
    for (const ChoiceItem& item : items) {
      beginning =
          std::min<int64_t>(beginning, std::ranges::mismatch(items[0].common, item.common).in1 -
                                           items[0].common.begin());
    }
    EXPECT_GT(beginning, 50);
    tokens += beginning;
    for (const ChoiceItem& item : items) tokens += item.own_tokens(beginning);
  }
  auto group = make_single_rank_group();
  const auto model = testing::make_tiny_model({});
  for (const int64_t max_tokens : {90, 4096}) {
    const SuiteEvaluation evaluation(all, WordTokenizer(), *group, {.max_tokens = max_tokens});
    EXPECT_GE(evaluation.passes(), max_tokens == 90 ? 9 : 1);
    CountingModel counting(*model);
    (void)evaluation.ask(counting, false, *group, {.done = [] {}, .stopped = [] { return false; }});
    EXPECT_LE(counting.tokens, tokens);
  }
}

TEST(SuiteEvaluation, IsTheSameOnAnyNumberOfRanksAndInAnyBatches) {
  const SuiteResult base = ask(suite(), {}, false, 1, 4096);
  for (const int world : {2, 4, 17}) {
    const SuiteResult other = ask(suite(), {}, false, world, 120);
    EXPECT_EQ(other.scored(), base.scored());
    for (size_t s = 0; s < base.subjects.size(); ++s) {
      for (size_t q = 0; q < base.subjects[s].questions.size(); ++q) {
        const SuiteAnswer& ours = other.subjects[s].questions[q];
        const SuiteAnswer& theirs = base.subjects[s].questions[q];
        EXPECT_EQ(ours.row, theirs.row);
        for (int i = 0; i < 4; ++i) EXPECT_NEAR(ours.scores[i], theirs.scores[i], 1e-5);
      }
    }
  }
}

// The longest has 26 words of its own, 10 around them and 11 of the header; a shot has 18.
TEST(SuiteEvaluation, LeavesOutShotsAndQuestionsThatDoNotFit) {
  const SuiteResult result = ask(suite(60), {}, false, 2, 4096);
  std::vector<int64_t> shots;
  for (const SuiteAnswer& answer : result.subjects[0].questions) shots.push_back(answer.shots);
  ASSERT_GE(shots.size(), 3u);
  EXPECT_TRUE(std::ranges::is_sorted(shots, std::greater<>())) << "longer ones have fewer";
  EXPECT_LT(shots.back(), 3);
  const SuiteResult tight = ask(suite(35), {}, false, 2, 4096);
  EXPECT_GT(tight.unscored(), 0);
  EXPECT_EQ(tight.scored() + tight.unscored(), 15);
  EXPECT_EQ(tight.subjects[0].unscored.back(), 4);
  EXPECT_EQ(ask(suite(5), {}, false, 3, 4096).scored(), 0);
}

TEST(SuiteEvaluation, ItsTextIsThatOfMmlu) {
  class Recorder final : public Tokenizer {
   public:
    Recorder() : Tokenizer("", "", {}) {}
    [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const override {
      texts.push_back(text);
      return {1, static_cast<int32_t>(texts.size())};
    }
    [[nodiscard]] std::string decode(std::span<const int32_t> /*ids*/) const override { return ""; }
    void encode_words(std::string_view /*stretch*/, bool /*first*/,
                      std::vector<int32_t>& /*ids*/) const override {}
    [[nodiscard]] int32_t pieces() const override { return 9; }
    [[nodiscard]] int32_t vocab_size() const override { return 9; }
    mutable std::vector<std::string> texts;
  } recorder;
  data::ChoiceSubject subject{
      .name = "big_fish",
      .shots = {{.question = "Q?", .choices = {"a", "b", "c", "d"}, .answer = 2}},
      .questions = {}};
  const data::ChoiceQuestion asked{.question = "R?", .choices = {"1", "2", "3", "4"}};
  (void)choice_item(subject, asked, recorder, 9);
  ASSERT_EQ(recorder.texts.size(), 4u);
  EXPECT_EQ(recorder.texts[3],
            "The following are multiple choice questions (with answers) about  big fish.\n\n"
            "Q?\nA. a\nB. b\nC. c\nD. d\nAnswer: C\n"
            "R?\nA. 1\nB. 2\nC. 3\nD. 4\nAnswer: D");
}

TEST(SuiteEvaluation, StopsOnAllRanksAndBesideRows) {
  const testing::TinyModel tiny{.experts = 6};
  const auto rows = testing::tiny_rows(6, 2);
  const ChoiceSuite all = suite();
  auto comms = testing::make_loopback_group(2);
  std::vector<std::jthread> threads;
  for (int rank = 0; rank < 2; ++rank) {
    threads.emplace_back([&, rank] {
      const auto model = testing::make_tiny_model(tiny);
      const SuiteEvaluation evaluation(all, WordTokenizer(), *comms[rank], {.max_tokens = 100});
      testing::RecordingSink sink;
      const EvaluationOptions options{
          .micro_batches = {.max_tokens = 40}, .step = 3, .stop = nullptr};
      const auto record = evaluate(*model, {rows, &evaluation}, *comms[rank], sink, options);
      ASSERT_TRUE(record);
      EXPECT_GT(record->target_tokens, 0);
      EXPECT_EQ(record->suite->scored(), 15);
      EXPECT_NE(record->suite, record->suite_dense);
      EXPECT_EQ(sink.eval_progress.back().done, sink.eval_progress.back().planned);
      int64_t polls = 0;
      EvaluationOptions stopping = options;
      stopping.stop = [&] { return rank == 1 && ++polls > 5; };
      EXPECT_FALSE(evaluate(*model, {rows, &evaluation}, *comms[rank], sink, stopping));
    });
  }
}

TEST(SuiteEvaluation, ANumberThatIsNotFiniteNamesTheQuestion) {
  auto group = make_single_rank_group();
  const auto model = testing::make_tiny_model({.poisoned = true});
  ChoiceSuite all = suite();
  const SuiteEvaluation evaluation(all, WordTokenizer(), *group, {});
  try {
    (void)evaluation.ask(*model, false, *group, {.done = [] {}, .stopped = [] { return false; }});
    FAIL() << "no error";
  } catch (const NonFiniteError& error) {
    EXPECT_NE(std::string(error.what()).find("mmlu, "), std::string::npos) << error.what();
  }
}

}  // namespace
}  // namespace emoe::worker
