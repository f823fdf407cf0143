#include "config/schema.h"

#include <set>

#include <google/protobuf/util/message_differencer.h>

#include "config/validation.h"
#include "format/tensor_table.h"
#include "tests/config/support.h"

namespace emoe::config {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;

// Every key of a message in the order of the proto file.
void collect_keys(const Descriptor& type, const std::string& prefix,
                  std::vector<std::string>& keys) {
  for (int i = 0; i < type.field_count(); ++i) {
    const FieldDescriptor& field = *type.field(i);
    const std::string key = prefix + field.name();
    keys.push_back(key);
    const bool nested = field.cpp_type() == FieldDescriptor::CPPTYPE_MESSAGE && !field.is_map() &&
                        field.message_type()->full_name() != "google.protobuf.Duration";
    if (nested) collect_keys(*field.message_type(), key + ".", keys);
  }
}

std::vector<std::string> row_keys(const Schema& schema) {
  std::vector<std::string> keys;
  for (const auto& rule : schema) keys.push_back(rule.key);
  return keys;
}

TEST(Schema, HasOneRowForEveryField) {
  std::vector<std::string> keys;
  collect_keys(*v1::JobSpec::descriptor(), "", keys);
  EXPECT_EQ(row_keys(job_schema()), keys);
  keys.clear();
  collect_keys(*v1::CoordinatorConfig::descriptor(), "", keys);
  EXPECT_EQ(row_keys(coordinator_schema()), keys);
}

TEST(Schema, EveryNumberHasARangeAndEveryTextIsOfSomeKind) {
  const std::set<std::string> free_texts = {"name",
                                            "hashes.model",
                                            "hashes.tokenizer",
                                            "hashes.train",
                                            "hashes.eval",
                                            "hashes.program",
                                            "hashes.adapter",
                                            "hashes.partition",
                                            "hashes.suite",
                                            "resources.slurm.partition",
                                            "resources.slurm.account",
                                            "resources.slurm.qos",
                                            "resources.slurm.constraint",
                                            "resources.kubernetes.queue",
                                            "resources.kubernetes.image"};
  for (const auto& rule : job_schema()) {
    v1::JobSpec spec;
    spec.mutable_model()->mutable_init();
    spec.mutable_lora();
    spec.mutable_emoe()->mutable_layers();
    spec.mutable_evaluate();
    spec.mutable_merge();
    spec.mutable_hashes();
    spec.mutable_resources()->mutable_slurm();
    spec.mutable_resources()->mutable_kubernetes();
    const auto full = resolve(spec);
    if (rule.key.starts_with("data.train_files.")) continue;  // of a list's elements
    const FieldAt at = find_field(full, rule.key);
    ASSERT_NE(at.message, nullptr) << rule.key;
    const auto type = at.field->cpp_type();
    if (type == FieldDescriptor::CPPTYPE_INT32 || type == FieldDescriptor::CPPTYPE_INT64 ||
        type == FieldDescriptor::CPPTYPE_DOUBLE) {
      EXPECT_TRUE(rule.low.has_value()) << rule.key;
    } else if (type == FieldDescriptor::CPPTYPE_STRING) {
      EXPECT_EQ(rule.path || rule.folder || rule.address || rule.option || rule.memory ||
                    !rule.words.empty(),
                !free_texts.contains(rule.key))
          << rule.key;
    }
  }
}

TEST(Resolve, FillsEveryDefaultOfTheContract) {
  const auto job = read_job("model: {path: /m}\ndata: {train: /d.json}", "job.yaml", {});
  ASSERT_TRUE(job.ok());
  const auto spec = resolve(job->spec);
  EXPECT_EQ(message_to_yaml(spec), R"(name: ""
task: train
model:
  path: /m
  dtype: bfloat16
data:
  train: /d.json
  eval: ""
  format: alpaca
  max_length: 512
  train_on_prompt: false
  packing: true
  shuffle: true
  fraction: 1
  strict: false
  template: auto
  answers: all
tuning: lora
lora:
  rank: 8
  alpha: 16
  dropout: 0.05
  targets: [q_proj, v_proj]
  init_adapter: ""
  use_rslora: false
optimizer:
  learning_rate: 2e-04
  schedule: cosine
  warmup_ratio: 0.03
  weight_decay: 0
  max_grad_norm: 1
  beta1: 0.9
  beta2: 0.999
  epsilon: 1e-08
train:
  epochs: 3
  max_steps: 0
  global_batch: 128
  drop_last: true
  loss_reduction: token
  seed: 42
  eval_every: 0
  log_every: 1
  micro_batch_tokens: 0
  recompute: false
checkpoint:
  every_steps: 50
  keep: 3
parallel:
  ranks: 1
  tensor: 1
  shard_base: false
  min_ranks: 0
export:
  dtype: auto
  merged: true
  adapter: true
  original_order: true
  verify: true
resources:
  device: auto
  max_runtime: 0s
  priority: 0
  max_attempts: 3
  threads_per_rank: 0
  preflight: false
)");
}

// An evaluation's spec has the defaults of the keys it uses, and no others.
TEST(Resolve, ATaskHasTheKeysItUses) {
  const auto job =
      read_job("task: evaluate\nmodel: {path: /m}\ndata: {eval: /d.json}", "job.yaml", {});
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(message_to_yaml(resolve(job->spec)), R"(name: ""
task: evaluate
adapter: ""
model:
  path: /m
  dtype: bfloat16
data:
  eval: /d.json
  format: alpaca
  max_length: 512
  train_on_prompt: false
  packing: true
  strict: false
  template: auto
  answers: all
train:
  micro_batch_tokens: 0
parallel:
  ranks: 1
  tensor: 1
  shard_base: false
  min_ranks: 0
resources:
  device: auto
  max_runtime: 0s
  priority: 0
  max_attempts: 3
  threads_per_rank: 0
  preflight: false
)");
}

TEST(Resolve, AMergeHasNoKeysOfDataOrTraining) {
  const auto job = read_job("task: merge\nmodel: {path: /m}\nadapter: /a", "job.yaml", {});
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(message_to_yaml(resolve(job->spec)), R"(name: ""
task: merge
adapter: /a
model:
  path: /m
data:
  strict: false
parallel:
  ranks: 1
  tensor: 1
  shard_base: false
  min_ranks: 0
export:
  dtype: auto
  verify: true
resources:
  device: auto
  max_runtime: 0s
  priority: 0
  max_attempts: 3
  threads_per_rank: 0
  preflight: false
)");
}

TEST(Resolve, APreflightIsOfRanksAndHostsAlone) {
  const auto job = read_job("task: preflight\nparallel: {ranks: 4}", "job.yaml", {});
  ASSERT_TRUE(job.ok());
  const auto spec = resolve(job->spec);
  EXPECT_FALSE(spec.has_model() || spec.has_data() || spec.has_train() || spec.has_export_());
  EXPECT_EQ(spec.resources().max_attempts(), 3);
  Diagnostics fine;
  (void)check(job->spec, job->locations, std::nullopt, fine);
  EXPECT_TRUE(fine.empty()) << fine.to_status();
  Diagnostics problems;
  const auto wrong =
      read_job("task: preflight\nmodel: {path: /m}\ntrain: {epochs: 1}", "job.yaml", {});
  ASSERT_TRUE(wrong.ok());
  (void)check(wrong->spec, wrong->locations, std::nullopt, problems);
  const auto lines = problems_of(problems.to_status());
  EXPECT_PROBLEM(lines, "model: is not used by task: preflight; leave it out");
  EXPECT_PROBLEM(lines, "train: is not used by task: preflight; leave it out");
}

TEST(Resolve, DefaultsFollowOtherKeys) {
  const auto spec = resolve(read_job("tuning: full\nmodel: {path: m, dtype: float32}\n"
                                     "emoe: {experts: 4, top_k: 2, layers: {start: 1}}",
                                     "j", {})
                                ->spec);
  EXPECT_EQ(spec.optimizer().learning_rate(), 2e-5);
  EXPECT_EQ(spec.export_().dtype(), "auto");
  EXPECT_FALSE(spec.export_().adapter());
  EXPECT_FALSE(spec.has_lora());
  EXPECT_EQ(spec.emoe().layers().every(), 2);
  EXPECT_EQ(spec.emoe().partition().method(), "kmeans");
  EXPECT_FALSE(spec.has_evaluate());
}

TEST(Resolve, AllLinearIsEveryLinear) {
  const auto job = read_job("model: {path: m}\nlora: {targets: [all-linear]}", "j", {});
  const auto spec = resolve(job->spec);
  EXPECT_EQ(std::vector<std::string>(spec.lora().targets().begin(), spec.lora().targets().end()),
            linear_names());
  EXPECT_FALSE(spec.lora().use_rslora());
}

TEST(Resolve, IsIdempotentAndKeepsWhatIsGiven) {
  const auto job = read_job(
      "model: {path: m}\nlora: {rank: 2, targets: [up_proj]}\n"
      "emoe: {experts: 4, top_k: 1, layers: {list: [2, 0]}}\n"
      "optimizer: {weight_decay: 0.1}\ndata: {packing: false}",
      "j", {});
  const auto once = resolve(job->spec);
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(once, resolve(once)));
  EXPECT_EQ(once.lora().rank(), 2);
  EXPECT_EQ(once.lora().targets_size(), 1);
  EXPECT_FALSE(once.emoe().layers().has_start());
  EXPECT_FALSE(once.data().packing());
}

}  // namespace
}  // namespace emoe::config
