// What is offered where a job does not fit: each change keeps its word when it is followed.
#include "server/job/remedies.h"

#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

// A job on a model too large for a test's disk: nothing of it but its shape is there.
class RemediesTest : public ::testing::Test {
 protected:
  void SetUp() override {
    given_.set_name("large");
    given_.mutable_model()->set_path("/models/7b");
    given_.mutable_model()->set_dtype("bfloat16");
    given_.mutable_data()->set_train("/data/train.jsonl");
    given_.mutable_train()->set_global_batch(8);
    given_.mutable_train()->set_max_steps(2);
    given_.mutable_resources()->set_device("cuda");
    facts_.train.emplace();
    for (int i = 0; i < 8; ++i) {
      facts_.train->rows.push_back({.content = static_cast<uint64_t>(i), .index = i});
      Row row{.ids = std::vector<int32_t>(500, 1), .targets = {{250, 500}}};
      facts_.train->tokens += 500;
      facts_.train->longest = 500;
      facts_.train->sample.push_back(std::move(row));
    }
    facts_.train->sampled = facts_.train->made = facts_.train_rows = 8;
    capacity_.slots = capacity_.gpu_slots = 2;
    capacity_.known_gpu = [this] { return GpuType{.name = "small", .bytes = gpu_bytes_}; };
  }
  v1::Plan plan_of_given(const v1::JobSpec& given) {
    Diagnostics problems;
    const v1::JobSpec resolved = config::check(given, {}, shape(), problems);
    EXPECT_TRUE(problems.empty()) << problems.to_status();
    if (capacity_.gpu_slots > 0) {
      EXPECT_LE(resolved.parallel().ranks(), capacity_.gpu_slots);
    }
    return plan_of({.spec = resolved,
                    .given = given,
                    .shape = shape(),
                    .model = model_,
                    .stored_weight_bytes = 0,
                    .facts = facts_},
                   capacity_);
  }
  v1::Plan plan() { return plan_of_given(given_); }
  [[nodiscard]] config::ModelShape shape() const {
    return {.num_hidden_layers = model_.num_hidden_layers,
            .intermediate_size = model_.intermediate_size,
            .max_position_embeddings = model_.max_position_embeddings,
            .num_attention_heads = model_.num_attention_heads,
            .num_key_value_heads = model_.num_key_value_heads,
            .dtypes = {{"BF16", 1}}};
  }
  // As a user follows it: with --set on the file.
  v1::Plan follow(const std::string& change) {
    std::vector<std::string> overrides;
    for (size_t at = 0; (at = change.find("--set ", at)) != std::string::npos;) {
      at += 6;
      overrides.push_back(change.substr(at, change.find(' ', at) - at));
    }
    Diagnostics problems;
    const auto changed =
        config::parse_job(config::message_to_yaml(given_), "job.yaml", overrides, problems);
    EXPECT_TRUE(problems.empty()) << problems.to_status();
    return plan_of_given(changed.spec);
  }
  std::vector<std::string> changes(const v1::Plan& plan) {
    std::vector<std::string> all;
    for (const v1::PlanChange& change : plan.memory().fits_with()) {
      all.push_back(change.change());
      const v1::Plan followed = follow(change.change());
      EXPECT_TRUE(check_fits(followed).ok()) << change.change() << ": " << check_fits(followed);
      EXPECT_EQ(followed.memory().rank_bytes(), change.rank_bytes()) << change.change();
    }
    return all;
  }

  v1::JobSpec given_;
  SpecFacts facts_;
  Capacity capacity_;
  int64_t gpu_bytes_ = 12'000'000'000;
  // Llama-2-7B.
  DecoderConfig model_{.hidden_size = 4096,
                       .intermediate_size = 11008,
                       .num_hidden_layers = 32,
                       .num_attention_heads = 32,
                       .num_key_value_heads = 32,
                       .head_dim = 128,
                       .vocab_size = 32000,
                       .max_position_embeddings = 4096};
};

bool has(const std::vector<std::string>& all, const std::string& change) {
  return std::ranges::find(all, change) != all.end();
}
bool any_has(const std::vector<std::string>& all, const std::string& part) {
  return std::ranges::any_of(
      all, [&](const std::string& change) { return change.find(part) != std::string::npos; });
}

TEST_F(RemediesTest, RanksShareAModelThatOneDoesNotHold) {
  given_.mutable_train()->set_micro_batch_tokens(500);
  const v1::Plan tight = plan();
  EXPECT_TRUE(tight.memory().does_not_fit());
  const auto all = changes(tight);
  EXPECT_TRUE(has(all, "--set parallel.ranks=2 --set parallel.shard_base=true"))
      << tight.DebugString();
  EXPECT_TRUE(has(all, "--set parallel.ranks=2 --set parallel.tensor=2")) << tight.DebugString();
  EXPECT_TRUE(tight.memory().no_remedy().empty());
}

TEST_F(RemediesTest, WhereNothingHelpsItSaysWhatWasTried) {
  capacity_.slots = capacity_.gpu_slots = 1;
  const v1::Plan tight = plan();
  EXPECT_TRUE(changes(tight).empty()) << "there is one slot";
  EXPECT_EQ(tight.memory().no_remedy(),
            "it fits with none of what was tried, alone or together: smaller micro-batches, "
            "train.recompute, rows of 64 tokens; there is 1 slot");
  EXPECT_NE(std::string(check_fits(tight).message()).find(tight.memory().no_remedy()),
            std::string::npos);
}

TEST_F(RemediesTest, ShardsAndTensorTogether) {
  capacity_.slots = capacity_.gpu_slots = 4;
  gpu_bytes_ = 5'400'000'000;
  const auto all = changes(plan());
  ASSERT_FALSE(all.empty()) << plan().DebugString();
  EXPECT_TRUE(any_has(all, "parallel.ranks=4")) << all.front();
}

TEST_F(RemediesTest, NoMoreRanksThanTheBatchHasRows) {
  given_.mutable_train()->set_global_batch(2);
  capacity_.slots = capacity_.gpu_slots = 0;  // not known
  for (const std::string& change : changes(plan())) {
    EXPECT_EQ(change.find("parallel.ranks=16"), std::string::npos) << change;
  }
}

TEST_F(RemediesTest, FewerRanksOnAHostThatTheyShareStayAValidJob) {
  given_.mutable_resources()->set_device("cpu");
  given_.mutable_parallel()->set_ranks(2);
  given_.mutable_parallel()->set_tensor(2);
  model_.num_hidden_layers = 4;
  capacity_.host_bytes = 0;
  const int64_t each = plan().memory().rank_bytes();
  given_.mutable_parallel()->set_ranks(1);
  given_.mutable_parallel()->set_tensor(1);
  const int64_t alone = plan().memory().rank_bytes();
  ASSERT_LT(alone, 2 * each) << "what both have alike is there once";
  given_.mutable_parallel()->set_ranks(2);
  given_.mutable_parallel()->set_tensor(2);
  capacity_.host_bytes = alone;
  const v1::Plan tight = plan();
  EXPECT_TRUE(tight.memory().does_not_fit());
  EXPECT_TRUE(any_has(changes(tight), "--set parallel.ranks=1 --set parallel.tensor=1"))
      << tight.DebugString();
}

TEST_F(RemediesTest, ARandomStartHasNoBaseToKeep) {
  given_.mutable_model()->clear_path();
  v1::ModelInit& init = *given_.mutable_model()->mutable_init();
  init.set_hidden_size(4096);
  init.set_intermediate_size(11008);
  init.set_num_hidden_layers(32);
  init.set_num_attention_heads(32);
  init.set_tokenizer("/models/7b/tokenizer.model");
  given_.set_tuning("full");
  for (const std::string& change : changes(plan())) {
    EXPECT_EQ(change.find("tuning=lora"), std::string::npos) << change;
  }
}

TEST_F(RemediesTest, LoraWhereTheStateIsTooLarge) {
  given_.set_tuning("full");
  capacity_.slots = capacity_.gpu_slots = 1;
  gpu_bytes_ = 24'000'000'000;
  given_.mutable_train()->set_micro_batch_tokens(500);
  const auto all = changes(plan());
  ASSERT_FALSE(all.empty()) << plan().DebugString();
  EXPECT_EQ(all.front(), "--set tuning=lora");
}

TEST_F(RemediesTest, AnEvaluationThatIsTooLargeIsSeenInTheLimit) {
  gpu_bytes_ = 1LL << 50;
  model_.num_hidden_layers = 1;  // of which a step holds no more than a pass
  given_.mutable_train()->set_micro_batch_tokens(2048);
  given_.mutable_data()->set_max_length(500);
  given_.mutable_evaluate()->set_path("/suite");
  const int64_t alone = plan().memory().rank_bytes();
  facts_.suite = SuiteFacts{.questions = 1000, .tokens = 4'000'000, .longest = 2000};
  const int64_t with_suite = plan().memory().rank_bytes();
  ASSERT_GT(with_suite, alone) << "the suite's passes take more than the steps";
  gpu_bytes_ = with_suite - 1;
  const v1::Plan tight = plan();
  EXPECT_TRUE(tight.memory().does_not_fit());
  EXPECT_LT(tight.memory().fitting_tokens(), 2048);
  EXPECT_GT(tight.memory().fitting_tokens(), 0);
  const auto all = changes(tight);
  ASSERT_FALSE(all.empty());
  EXPECT_TRUE(all.front().starts_with("--set train.micro_batch_tokens="))
      << "which cuts no data: " << all.front();
}

TEST_F(RemediesTest, WithStrictNoRowIsCut) {
  given_.mutable_data()->set_strict(true);
  given_.mutable_data()->set_max_length(512);
  for (const int64_t gigabytes : {12, 16, 17, 18, 19, 20}) {
    gpu_bytes_ = gigabytes * 1'000'000'000;
    for (const std::string& change : changes(plan())) {
      EXPECT_EQ(change.find("data.max_length"), std::string::npos) << change;
    }
  }
}

// Whatever the memory, what does not fit is never said to fit at the size that it has.
TEST_F(RemediesTest, ThePlanDoesNotContradictItself) {
  given_.mutable_train()->set_micro_batch_tokens(4096);
  facts_.train->sample.front().targets = {{1, 500}};
  facts_.suite = SuiteFacts{.questions = 1000, .tokens = 4'000'000, .longest = 2000};
  given_.mutable_evaluate()->set_path("/suite");
  capacity_.gpu_slots = 1;
  for (int64_t megabytes = 14000; megabytes < 30000; megabytes += 500) {
    gpu_bytes_ = megabytes << 20;
    const v1::Plan plan = this->plan();
    const int64_t now = 4096;
    EXPECT_EQ(plan.memory().does_not_fit(), plan.memory().rank_bytes() > gpu_bytes_);
    if (plan.memory().does_not_fit()) {
      EXPECT_LT(plan.memory().fitting_tokens(), now) << gpu_bytes_;
    }
  }
}

}  // namespace
}  // namespace emoe::server
