#include "worker/run/job_plan.h"

#include <absl/strings/str_join.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/run/spec_keys.h"
#include "tests/worker/run/tiny_job.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

using testing::key_of;
using testing::spec_keys;
using testing::TinyJob;

std::string text(const std::string& value) {
  return value;
}
std::string text(const std::filesystem::path& value) {
  return value.string();
}
std::string text(bool value) {
  return value ? "true" : "false";
}
std::string text(double value) {
  return absl::StrCat(value);
}
std::string text(int64_t value) {
  return absl::StrCat(value);
}
std::string text(int32_t value) {
  return absl::StrCat(value);
}
template <typename T>
std::string text(const std::vector<T>& values) {
  return absl::StrJoin(values, " ");
}
std::string text(Selector selector) {
  return selector == Selector::top ? "top" : selector == Selector::bottom ? "bottom" : "not_top";
}
std::string text(ScheduleKind kind) {
  return kind == ScheduleKind::linear     ? "linear"
         : kind == ScheduleKind::constant ? "constant"
                                          : "cosine";
}
std::string text(LossReduction reduction) {
  return reduction == LossReduction::example ? "example" : "token";
}

// A key with a value that is not its default, and where the plan has it.
struct Arrival {
  std::string set;  // DIR stands for the job's folder
  std::string (*arrived)(const JobPlan&);
  std::string value;                // as text(); empty: what is set
  std::vector<std::string> with{};  // what the key needs beside it
};

#define AT(member) [](const JobPlan& plan) { return text(plan.member); }

const std::vector<std::string> kInit{
    "model.path=null", "tuning=full",
    "model.init={hidden_size: 24, intermediate_size: 40, num_hidden_layers: 2, "
    "num_attention_heads: 2, tokenizer: DIR/model}"};

const std::vector<std::string> kEvaluate{"task=evaluate", "data.train=null", "train=null",
                                         "data.eval=DIR/rows.json"};

const std::vector<std::string> kSuite{"evaluate={path: DIR/a}"};
const std::vector<std::string> kMerge{"task=merge", "data=null",  "emoe=null",
                                      "lora=null",  "train=null", "adapter=DIR/adapter"};
const std::vector<std::string> kMergeSeveral{
    "task=merge", "data=null", "emoe=null", "lora=null", "train=null", "merge={adapters: [DIR/a]}"};

const std::vector<Arrival>& arrivals() {
  static const std::vector<Arrival> all{
      {"adapter=DIR/adapter", AT(adapter), "", kEvaluate},
      {"model.path=DIR/copy", AT(model.path)},
      {"model.dtype=float32", AT(model.bfloat16), "false"},
      {"model.init.hidden_size=48", AT(model.config.hidden_size), "", kInit},
      {"model.init.intermediate_size=64", AT(model.config.intermediate_size), "", kInit},
      {"model.init.num_hidden_layers=5", AT(model.config.num_hidden_layers), "", kInit},
      {"model.init.num_attention_heads=6", AT(model.config.num_attention_heads), "", kInit},
      {"model.init.num_key_value_heads=1", AT(model.config.num_key_value_heads), "", kInit},
      {"model.init.max_position_embeddings=99", AT(model.config.max_position_embeddings), "",
       kInit},
      {"model.init.rms_norm_eps=0.25", AT(model.config.rms_norm_eps), "", kInit},
      {"model.init.rope_theta=512", AT(model.config.rope.theta), "", kInit},
      {"model.init.tie_word_embeddings=true", AT(model.config.tie_word_embeddings), "", kInit},
      {"model.init.initializer_range=0.125", AT(model.initializer_range), "", kInit},
      {"model.init.tokenizer=DIR/copy", AT(model.tokenizer), "", kInit},
      {"model.init.seed=7", AT(model.init_seed), "", kInit},
      {"data.train=DIR/other.json", AT(train()->data.files[0].path)},
      {"data.eval=DIR/other.json", AT(eval_data->files[0].path)},
      {"data.format=text", AT(train()->data.format)},
      {"data.max_length=48", AT(train()->data.max_length)},
      {"data.train_on_prompt=true", AT(train()->data.train_on_prompt)},
      {"data.packing=false", AT(train()->options.micro_batches.packing)},
      {"data.shuffle=false", AT(train()->options.batches.shuffle)},
      {"data.fraction=0.5", AT(train()->data.fraction)},
      {"data.strict=true", AT(strict)},
      {"data.train_files=[DIR/other.json]",
       AT(train()->data.files[0].path),
       "DIR/other.json",
       {"data.train=[DIR/rows.json]"}},
      {"data.eval_fraction=0.25", AT(train()->data.held_out.fraction)},
      {"data.template=chatml", AT(train()->data.chat_template)},
      {"data.fields={output: answer}",
       [](const JobPlan& plan) { return absl::StrCat(plan.train()->data.fields.size()); }, "1"},
      {"data.answers=last", AT(train()->data.last_answer_only), "true", {"data.format=chat"}},
      {"tuning=full", AT(train()->full), "true"},
      {"lora.rank=3", AT(train()->lora.rank)},
      {"lora.alpha=5.5", AT(train()->lora.alpha)},
      {"lora.dropout=0.25", AT(train()->lora.dropout)},
      {"lora.targets=[up_proj, o_proj]", AT(train()->lora.targets), "up_proj o_proj"},
      {"lora.init_adapter=DIR/adapter", AT(adapter)},
      {"lora.use_rslora=true", AT(train()->lora.rslora)},
      {"emoe.experts=8", AT(emoe.routing.num_experts)},
      {"emoe.top_k=3", AT(emoe.routing.top_k)},
      {"emoe.layers.start=1", AT(emoe.layers), "1 2"},
      {"emoe.layers.every=2", AT(emoe.layers), "0 2"},
      {"emoe.layers.list=[2, 1]",
       AT(emoe.layers),
       "1 2",
       {"emoe={experts: 4, top_k: 2, layers: {list: [0]}}"}},
      {"emoe.partition.method=random", AT(emoe.partition.method)},
      {"emoe.partition.restarts=3", AT(emoe.partition.restarts)},
      {"emoe.partition.seed=9", AT(emoe.partition.seed)},
      {"emoe.partition.path=DIR/partition", AT(emoe.partition.folder)},
      {"emoe.selector=bottom", AT(emoe.routing.selector)},
      {"optimizer.learning_rate=0.5", AT(train()->options.learning_rate)},
      {"optimizer.schedule=linear", AT(train()->options.schedule)},
      {"optimizer.warmup_ratio=0.25", AT(train()->options.warmup_ratio)},
      {"optimizer.weight_decay=0.75", AT(train()->options.adamw.weight_decay)},
      {"optimizer.max_grad_norm=1.5", AT(train()->options.adamw.max_grad_norm)},
      {"optimizer.beta1=0.375", AT(train()->options.adamw.beta1)},
      {"optimizer.beta2=0.625", AT(train()->options.adamw.beta2)},
      {"optimizer.epsilon=0.0625", AT(train()->options.adamw.epsilon)},
      {"train.epochs=11", AT(train()->options.batches.epochs)},
      {"train.max_steps=13", AT(train()->options.batches.max_steps)},
      {"train.global_batch=14", AT(train()->options.batches.global_batch)},
      {"train.drop_last=false", AT(train()->options.batches.drop_last)},
      {"train.loss_reduction=example", AT(train()->options.loss_reduction)},
      {"train.seed=15", AT(train()->options.batches.seed)},
      {"train.eval_every=16", AT(train()->options.eval_every)},
      {"train.log_every=17", AT(log_every)},
      {"train.micro_batch_tokens=18", AT(train()->options.micro_batches.max_tokens)},
      {"train.recompute=true", AT(train()->recompute)},
      {"checkpoint.every_steps=19", AT(train()->options.checkpoint.every_steps)},
      {"checkpoint.keep=20", AT(train()->options.checkpoint.keep)},
      {"parallel.ranks=2", AT(ranks)},
      {"parallel.min_ranks=1", AT(min_ranks)},
      {"parallel.tensor=2", AT(tensor), "2", {"parallel.ranks=2"}},
      {"parallel.shard_base=true", AT(shard_base)},
      {"export.dtype=float16", AT(train()->export_model.dtype)},
      {"export.merged=false", AT(train()->export_model.merged)},
      {"export.adapter=false", AT(train()->export_model.adapter)},
      {"export.verify=false", AT(train()->export_model.verify)},
      {"export.original_order=false", AT(train()->export_model.original_order)},
      {"merge.adapters=[DIR/b]", AT(merge()->parts[0].adapter), "DIR/b", kMergeSeveral},
      {"merge.weights=[0.25]", AT(merge()->parts[0].weight), "0.25", kMergeSeveral},
      {"evaluate.path=DIR/b", AT(suite->files.folder), "", kSuite},
      {"evaluate.shots=2", AT(suite->files.shots), "", kSuite},
      {"evaluate.split=val", AT(suite->files.split), "", kSuite},
      {"evaluate.subjects=[a, b]", AT(suite->files.subjects), "a b", kSuite},
      {"evaluate.limit=7", AT(suite->files.limit), "", kSuite},
      {"evaluate.max_length=33", AT(suite->max_length), "", kSuite},
      {"resources.device=cpu", AT(device)},
      {"resources.threads_per_rank=21", AT(threads_per_rank)},
      {"resources.preflight=true", AT(preflight)},
      {"hashes.model=a", AT(expected.model)},
      {"hashes.tokenizer=b", AT(expected.tokenizer)},
      {"hashes.train=c", AT(expected.train)},
      {"hashes.eval=d", AT(expected.eval)},
      {"hashes.program=e", AT(expected.program)},
      {"hashes.adapter=f", AT(expected.adapter)},
      {"hashes.partition=g", AT(expected.partition)},
      {"hashes.suite=h", AT(expected.suite)},
  };
  return all;
}

// Keys that a rank's plan has no use for.
const std::set<std::string> kElsewhere{
    "name", "labels",                                                         // for people
    "resources.max_runtime", "resources.priority", "resources.max_attempts",  // the coordinator's
    "resources.slurm.partition", "resources.slurm.account", "resources.slurm.qos",
    "resources.slurm.constraint", "resources.slurm.ranks_per_node", "resources.slurm.gpus_per_rank",
    "resources.slurm.time_limit", "resources.slurm.extra_args", "resources.kubernetes.queue",
    "resources.kubernetes.image", "resources.kubernetes.ranks_per_pod",
    "resources.kubernetes.gpus_per_rank", "resources.kubernetes.memory_per_rank",
    "resources.kubernetes.shm_size",
    "task",  // decides which plan there is
    // With one value so far: any other is refused.
    "emoe.gate", "evaluate.suite"};

class JobPlanTest : public ::testing::Test {
 protected:
  void SetUp() override { std::filesystem::copy(job_.model(), job_ / "copy"); }
  [[nodiscard]] std::string in_folder(std::string text) const {
    const std::string folder = (job_ / "x").parent_path().string();
    for (size_t at; (at = text.find("DIR")) != std::string::npos;) text.replace(at, 3, folder);
    return text;
  }
  [[nodiscard]] JobPlan plan(const std::vector<std::string>& overrides) const {
    std::vector<std::string> all{"emoe={experts: 4, top_k: 2, layers: {start: 0, every: 1}}"};
    for (const std::string& override : overrides) all.push_back(in_folder(override));
    return job_.plan(all);
  }
  TinyJob job_;
};

TEST_F(JobPlanTest, EachKeyArrivesAtItsPlace) {
  for (const Arrival& arrival : arrivals()) {
    SCOPED_TRACE(arrival.set);
    const std::string set = arrival.set.substr(arrival.set.find('=') + 1);
    const std::string expected = in_folder(arrival.value.empty() ? set : arrival.value);
    std::vector<std::string> overrides = arrival.with;
    if (key_of(arrival.set) != "data.eval") {  // which has no place without a file
      EXPECT_NE(arrival.arrived(plan(overrides)), expected) << "shows nothing";
    }
    overrides.push_back(arrival.set);
    EXPECT_EQ(arrival.arrived(plan(overrides)), expected);
  }
}

TEST_F(JobPlanTest, TheTableHasEveryKey) {
  std::set<std::string> seen = kElsewhere;
  for (const Arrival& arrival : arrivals()) {
    EXPECT_TRUE(seen.insert(key_of(arrival.set)).second) << arrival.set << " stands twice";
  }
  EXPECT_EQ(seen, spec_keys());
}

TEST_F(JobPlanTest, WhatFollowsFromOtherKeys) {
  const JobPlan lora = plan({"train.seed=5", "data.eval=DIR/rows.json", "data.fraction=0.5"});
  EXPECT_EQ(lora.train()->lora.seed, 5);
  EXPECT_EQ(lora.eval_data->fraction, 1.0);  // all held-out rows count
  EXPECT_EQ(lora.eval_data->key, "data.eval");
  EXPECT_EQ(lora.model.tokenizer, job_.model());
  EXPECT_EQ(lora.model.config.intermediate_size, 48);
  EXPECT_EQ(lora.train()->options.micro_batches.max_tokens, 4096);
  EXPECT_FALSE(lora.train()->options.micro_batches.share_prefixes);  // dropout is on
  EXPECT_TRUE(plan({"lora.dropout=0"}).train()->options.micro_batches.share_prefixes);
  EXPECT_TRUE(plan({"tuning=full"}).train()->options.micro_batches.share_prefixes);
  EXPECT_FALSE(
      plan({"tuning=full", "data.packing=false"}).train()->options.micro_batches.share_prefixes);
  EXPECT_TRUE(lora.train()->export_model.adapter);

  const JobPlan full = plan({"tuning=full", "export.adapter=true"});
  EXPECT_EQ(full.train()->lora.rank, 0);
  EXPECT_FALSE(full.train()->export_model.adapter);
  EXPECT_EQ(plan({"emoe.experts=0"}).emoe.routing.num_experts, 0);
  EXPECT_TRUE(plan({"emoe.experts=0"}).emoe.layers.empty());
  EXPECT_FALSE(plan({}).eval_data.has_value());

  std::vector<std::string> init = kInit;
  init.insert(init.end(), {"data.max_length=5000", "model.init.max_position_embeddings=6000"});
  const JobPlan random = plan(init);
  EXPECT_EQ(random.train()->options.micro_batches.max_tokens, 5000);
  EXPECT_EQ(random.model.config.num_key_value_heads, 2);
  EXPECT_EQ(random.model.config.head_dim, 12);
  EXPECT_TRUE(random.model.path.empty());
}

TEST_F(JobPlanTest, AnEvaluationHasItsOwnPlan) {
  std::vector<std::string> overrides = kEvaluate;
  EXPECT_TRUE(plan(overrides).emoe.partition.tuned_since);
  EXPECT_EQ(std::get<EvaluatePlan>(plan(overrides).task).micro_batches.max_tokens, 4096);
  overrides.insert(overrides.end(), {"train.micro_batch_tokens=18", "data.packing=false"});
  const JobPlan evaluation = plan(overrides);
  EXPECT_EQ(evaluation.train(), nullptr);
  EXPECT_EQ(std::get<EvaluatePlan>(evaluation.task).micro_batches.max_tokens, 18);
  EXPECT_FALSE(std::get<EvaluatePlan>(evaluation.task).micro_batches.packing);
  EXPECT_EQ(evaluation.eval_data->files[0].path, job_.rows());
  EXPECT_FALSE(evaluation.suite.has_value());
  const JobPlan suite =
      plan({"task=evaluate", "data=null", "train=null", "evaluate={path: DIR/a}"});
  EXPECT_FALSE(suite.eval_data.has_value());
  EXPECT_EQ(suite.suite->name, "mmlu");
  EXPECT_EQ(suite.suite->max_length, suite.model.config.max_position_embeddings);
}

TEST_F(JobPlanTest, AMergeHasItsOwnPlan) {
  std::vector<std::string> overrides = kMerge;
  const JobPlan one = plan(overrides);
  EXPECT_EQ(one.train(), nullptr);
  ASSERT_EQ(one.merge()->parts.size(), 1u);
  EXPECT_EQ(one.merge()->parts[0].weight, 1.0);
  EXPECT_TRUE(one.merge()->export_model.merged);
  EXPECT_FALSE(one.merge()->export_model.adapter);
  EXPECT_EQ(one.model.tokenizer, job_.model());
  overrides.insert(overrides.end(), {"export.dtype=float16", "export.verify=false"});
  EXPECT_EQ(plan(overrides).merge()->export_model.dtype, "float16");
  EXPECT_FALSE(plan(overrides).merge()->export_model.verify);
  std::filesystem::remove(job_ / "copy/tokenizer.model");
  overrides.push_back("model.path=DIR/copy");
  EXPECT_TRUE(plan(overrides).model.tokenizer.empty());
}

TEST_F(JobPlanTest, AConversionMakesExpertsOrUndoesThem) {
  std::vector<std::string> overrides{"task=convert", "data=null", "lora=null", "train=null",
                                     "emoe.top_k=null"};
  ASSERT_NE(plan(overrides).convert(), nullptr);
  EXPECT_FALSE(plan(overrides).convert()->restores);
  EXPECT_FALSE(plan(overrides).convert()->permutes);
  EXPECT_EQ(plan(overrides).emoe.layers, (std::vector<int64_t>{0, 1, 2}));
  overrides.push_back("export.original_order=false");
  EXPECT_TRUE(plan(overrides).convert()->permutes);
  EXPECT_TRUE(plan({"task=convert", "data=null", "lora=null", "train=null", "emoe=null"})
                  .convert()
                  ->restores);
}

TEST_F(JobPlanTest, SaysEveryProblemAtOnce) {
  try {
    (void)plan(
        {"optimizer.beta1=2", "emoe.experts=5", "data.max_length=1000", "parallel.tensor=2"});
    FAIL() << "accepted";
  } catch (const JobError& error) {
    EXPECT_EQ(error.code(), ExitCode::configuration);
    for (const char* key :
         {"optimizer.beta1", "emoe.experts", "data.max_length", "parallel.tensor"}) {
      EXPECT_NE(std::string(error.what()).find(key), std::string::npos) << error.what();
    }
  }
  // A config.json that is not understood is an error of data only when it is alone.
  ASSERT_TRUE(write_file_atomically(job_ / "copy/config.json", "{}").ok());
  const auto code = [&](const std::vector<std::string>& overrides) {
    try {
      (void)plan(overrides);
    } catch (const JobError& error) {
      EXPECT_NE(std::string(error.what()).find("config.json"), std::string::npos);
      return error.code();
    }
    return ExitCode::done;
  };
  EXPECT_EQ(code({"model.path=DIR/copy"}), ExitCode::data);
  EXPECT_EQ(code({"model.path=DIR/copy", "optimizer.beta1=2"}), ExitCode::configuration);
}

TEST_F(JobPlanTest, JobYamlReadsBackAsTheSameJobWithItsHashes) {
  const JobPlan plan = this->plan({"labels={a: b}", "optimizer.learning_rate=0.1"});
  ContentHashes hashes;
  for (const ContentField& content : kContentFields) {
    hashes.*content.hash = std::string("hash of ") + content.key;
  }
  const std::string yaml = yaml_with_hashes(plan, hashes);
  ASSERT_TRUE(write_file_atomically(job_ / "job.yaml", yaml).ok());
  const StoredJob stored = read_stored_job(job_ / "job.yaml");
  EXPECT_EQ(stored.identity, plan.identity);
  for (const ContentField& content : kContentFields) {
    EXPECT_EQ(stored.hashes.*content.hash, hashes.*content.hash) << content.key;
  }
  const JobPlan again = plan_job(job_ / "job.yaml", {});
  EXPECT_EQ(yaml_with_hashes(again, hashes), yaml);
}

// A hash of the spec without its entry would never be written, compared or told apart.
TEST(ContentFields, HasEveryHashOfTheSpec) {
  std::set<std::string> keys;
  for (const ContentField& content : kContentFields) keys.insert(content.key);
  std::set<std::string> stored;
  testing::add_keys(*v1::Hashes::descriptor(), "", stored);
  EXPECT_EQ(keys, stored);
}

}  // namespace
}  // namespace emoe::worker
