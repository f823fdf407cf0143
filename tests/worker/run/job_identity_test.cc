// Which keys make another job of a job: a run may be continued where none of them has changed.
#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "config/config.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/run/spec_keys.h"
#include "worker/run/job_plan.h"

namespace emoe::worker {
namespace {

struct Row {
  std::string set;  // a value that is not the default
  bool another_job;
};

const std::vector<Row>& rows() {
  static const std::vector<Row> all{
      {"name=other", false},
      {"task=evaluate", true},
      {"adapter=/other", false},
      // Files are compared by content, wherever they lie.
      {"model.path=/other", false},
      {"model.dtype=float32", true},
      {"model.init.hidden_size=64", true},
      {"model.init.intermediate_size=64", true},
      {"model.init.num_hidden_layers=64", true},
      {"model.init.num_attention_heads=64", true},
      {"model.init.num_key_value_heads=64", true},
      {"model.init.max_position_embeddings=64", true},
      {"model.init.rms_norm_eps=0.5", true},
      {"model.init.rope_theta=64", true},
      {"model.init.tie_word_embeddings=true", true},
      {"model.init.initializer_range=0.5", true},
      {"model.init.tokenizer=/other", false},
      {"model.init.seed=64", true},
      {"data.train=/other", false},
      {"data.eval=/other", false},
      {"data.format=text", true},
      {"data.max_length=64", true},
      {"data.train_on_prompt=true", true},
      {"data.packing=false", false},  // changes speed, and numbers by rounding only
      {"data.shuffle=false", true},
      {"data.fraction=0.5", true},
      {"data.strict=true", false},
      {"data.train_files=[{path: /other, weight: 2}]", true},
      {"data.eval_fraction=0.5", true},
      {"data.template=chatml", true},
      {"data.fields={output: answer}", true},
      {"data.answers=last", true},
      {"tuning=full", true},
      {"lora.rank=64", true},
      {"lora.alpha=64", true},
      {"lora.dropout=0.5", true},
      {"lora.targets=[up_proj]", true},
      {"lora.init_adapter=/other", false},
      {"lora.use_rslora=true", true},
      {"emoe.experts=64", true},
      {"emoe.top_k=64", true},
      {"emoe.layers.start=64", true},
      {"emoe.layers.every=64", true},
      {"emoe.layers.list=[64]", true},
      {"emoe.partition.method=random", true},
      {"emoe.partition.restarts=64", true},
      {"emoe.partition.seed=64", true},
      {"emoe.partition.path=/other", false},
      {"emoe.selector=bottom", true},
      {"emoe.gate=learned", true},
      {"optimizer.learning_rate=0.5", true},
      {"optimizer.schedule=linear", true},
      {"optimizer.warmup_ratio=0.5", true},
      {"optimizer.weight_decay=0.5", true},
      {"optimizer.max_grad_norm=0.5", true},
      {"optimizer.beta1=0.5", true},
      {"optimizer.beta2=0.5", true},
      {"optimizer.epsilon=0.5", true},
      {"train.epochs=64", true},
      {"train.max_steps=64", true},
      {"train.global_batch=64", true},
      {"train.drop_last=false", true},
      {"train.loss_reduction=example", true},
      {"train.seed=64", true},
      {"train.eval_every=64", false},
      {"train.log_every=64", false},
      {"train.micro_batch_tokens=64", false},
      {"train.recompute=true", false},
      {"checkpoint.every_steps=64", false},
      {"checkpoint.keep=64", false},
      // Another number of ranks continues a run: its numbers do not depend on it.
      {"parallel.ranks=64", false},
      {"parallel.tensor=64", false},
      {"parallel.shard_base=true", false},
      {"parallel.min_ranks=64", false},
      // An export is made from the trained weights.
      {"export.dtype=float32", false},
      {"export.merged=false", false},
      {"export.adapter=false", false},
      {"export.original_order=false", false},
      {"export.verify=false", false},
      {"evaluate.suite=other", true},
      {"evaluate.path=/other", false},
      {"evaluate.shots=64", true},
      {"evaluate.split=val", true},
      {"evaluate.subjects=[a]", true},
      {"evaluate.limit=64", true},
      {"evaluate.max_length=64", true},
      {"merge.adapters=[/other]", false},
      {"merge.weights=[0.5]", true},
      {"resources.device=cpu", false},
      {"resources.max_runtime=64s", false},
      {"resources.priority=64", false},
      {"resources.max_attempts=64", false},
      {"resources.threads_per_rank=64", false},
      {"resources.preflight=true", false},
      {"resources.slurm.partition=a", false},
      {"resources.slurm.account=a", false},
      {"resources.slurm.qos=a", false},
      {"resources.slurm.constraint=a", false},
      {"resources.slurm.ranks_per_node=2", false},
      {"resources.slurm.gpus_per_rank=1", false},
      {"resources.slurm.time_limit=64s", false},
      {"resources.slurm.extra_args=[--exclusive]", false},
      {"resources.kubernetes.queue=a", false},
      {"resources.kubernetes.image=a", false},
      {"resources.kubernetes.ranks_per_pod=2", false},
      {"resources.kubernetes.gpus_per_rank=1", false},
      {"resources.kubernetes.memory_per_rank=8Gi", false},
      {"resources.kubernetes.shm_size=8Gi", false},
      {"labels={a: b}", false},
      {"hashes.model=a", false},
      {"hashes.tokenizer=a", false},
      {"hashes.train=a", false},
      {"hashes.eval=a", false},
      {"hashes.program=a", false},
      {"hashes.adapter=a", false},
      {"hashes.partition=a", false},
      {"hashes.suite=a", false},
  };
  return all;
}

// Has every message, so that a key changes nothing but itself. Nothing judges it: an identity needs
// no valid job.
constexpr char kJob[] =
    "model: {path: m, init: {hidden_size: 8}}\ndata: {train: t}\nlora: {rank: 4}\n"
    "emoe: {experts: 4, top_k: 2, layers: {start: 0, every: 1}}\nevaluate: {path: p}\nmerge: {}\n";

std::string identity_of(const std::vector<std::string>& overrides) {
  const emoe::testing::TempDir dir;
  Diagnostics diagnostics;
  const config::LoadedJob job = config::parse_job(kJob, "job.yaml", overrides, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  EXPECT_TRUE(write_file_atomically(dir / "job.yaml", config::message_to_yaml(job.spec)).ok());
  return read_stored_job(dir / "job.yaml").identity;
}

TEST(JobIdentity, ChangesWithTheKeysThatChangeTheTrainedWeights) {
  const std::string base = identity_of({});
  for (const Row& row : rows()) {
    EXPECT_EQ(identity_of({row.set}) != base, row.another_job) << row.set;
  }
}

TEST(JobIdentity, EveryKeyOfTheSpecIsDecidedAbout) {
  std::set<std::string> seen;
  for (const Row& row : rows()) {
    EXPECT_TRUE(seen.insert(testing::key_of(row.set)).second) << row.set << " stands twice";
  }
  EXPECT_EQ(seen, testing::spec_keys());
}

TEST(JobIdentity, DefaultsAreAsGoodAsWritten) {
  EXPECT_EQ(identity_of({"optimizer.beta1=0.9", "data.format=alpaca"}), identity_of({}));
  // So is one of a run from before there was the key.
  for (const char* later : {"template", "answers"}) {
    EXPECT_EQ(identity_of({}).find(later), std::string::npos) << later;
  }
  // Where the files of a mixture lie is not what it is.
  EXPECT_EQ(identity_of({"data.train=[a, {path: b, weight: 2}]"}),
            identity_of({"data.train=[c, {path: d, weight: 2}]"}));
}

}  // namespace
}  // namespace emoe::worker
