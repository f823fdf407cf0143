#include <limits>

#include "tests/config/support.h"

namespace emoe::config {
namespace {

const std::string kGood = "model: {path: /m}\ndata: {train: /d.json}\n";
const std::string kEmoe = kGood + "emoe: {experts: 8, top_k: 2, layers: {start: 0, every: 1}}\n";

TEST(Rules, GoodJobsPass) {
  EXPECT_TRUE(rule_problems(kGood).empty()) << joined(rule_problems(kGood));
  EXPECT_TRUE(rule_problems(kEmoe).empty()) << joined(rule_problems(kEmoe));
}

TEST(Rules, TheIssuesExampleComesBackAllAtOnce) {
  const auto lines = rule_problems(R"(model:
  path: /m
  init: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2, num_attention_heads: 8, tokenizer: t}
data: {train: /d.json}
lora:
  targets: [q_proj, qproj]
emoe:
  experts: 8
  top_k: 9
  layers: {list: [0, 2]}
optimizer:
  learning_rate: -1e-4
  weight_decay: .nan
train: {global_batch: 2}
parallel: {ranks: 4}
)");
  EXPECT_EQ(lines.size(), 8u) << joined(lines);
  EXPECT_PROBLEM(lines, "job.yaml:8: emoe.experts: must divide the model's intermediate_size 172");
  EXPECT_PROBLEM(lines, "job.yaml:10: emoe.layers.list[1]: no layer 2");
  EXPECT_PROBLEM(lines, "job.yaml:3: model.init: give model.path or model.init, not both");
  EXPECT_PROBLEM(lines,
                 "job.yaml:6: lora.targets[1]: unknown word \"qproj\" (did you mean \"q_proj\"?)");
  EXPECT_PROBLEM(lines, "job.yaml:9: emoe.top_k: must be at most emoe.experts 8, is 9");
  EXPECT_PROBLEM(lines, "job.yaml:12: optimizer.learning_rate: must be above 0, is -1e-04");
  EXPECT_PROBLEM(lines,
                 "job.yaml:13: optimizer.weight_decay: must be finite and at least 0, is .nan");
  EXPECT_PROBLEM(lines, "job.yaml:14: train.global_batch: a batch of 2 rows cannot feed 4 ranks");
}

// Keys that do not read and values that mean nothing come together; what did not read is not judged
// again, nor anything below it.
TEST(Rules, GoOnBehindWhatDidNotRead) {
  const auto lines = rule_problems(R"(modle: {path: /m}
model:
  init: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: many, tokenizer: t}
data: nothing
lora:
  targets: [5, qproj, q_proj]
emoe:
  experts: 64
  top_k: 65
  layers: {list: [x, 1, 1]}
  partition: []
optimizer: {learning_rat: 1, learning_rate: -1}
resources: {max_runtime: 90}
)");
  EXPECT_EQ(lines.size(), 15u) << joined(lines);
  EXPECT_PROBLEM(lines, "job.yaml:1: modle: unknown key (did you mean \"model\"?)");
  EXPECT_PROBLEM(lines, "job.yaml:3: model.init.num_hidden_layers: expected a whole number");
  EXPECT_PROBLEM(lines, "job.yaml:3: model.init.num_attention_heads: is required");
  EXPECT_PROBLEM(lines, "job.yaml:4: data: expected a mapping");
  EXPECT_PROBLEM(lines, "job.yaml:6: lora.targets[0]: expected text");
  EXPECT_PROBLEM(lines, "job.yaml:6: lora.targets[1]: unknown word \"qproj\"");
  EXPECT_PROBLEM(lines, "job.yaml:8: emoe.experts: must divide the model's intermediate_size 172");
  EXPECT_PROBLEM(lines, "job.yaml:9: emoe.top_k: must be at most emoe.experts 64, is 65");
  EXPECT_PROBLEM(lines, "job.yaml:10: emoe.layers.list[0]: expected a whole number");
  EXPECT_PROBLEM(lines, "job.yaml:10: emoe.layers.list[2]: layer 1 is given twice");
  EXPECT_PROBLEM(lines, "job.yaml:11: emoe.partition: expected a mapping");
  EXPECT_PROBLEM(lines, "optimizer.learning_rat: unknown key");
  EXPECT_PROBLEM(lines, "optimizer.learning_rate: must be above 0");
  EXPECT_PROBLEM(lines, "job.yaml: tuning: a random start");
  EXPECT_PROBLEM(lines, "job.yaml:13: resources.max_runtime: expected a duration");
}

TEST(Rules, ATextThatIsNoYamlIsJudgedNoFurther) {
  EXPECT_EQ(rule_problems("model: [").size(), 1u);
  EXPECT_EQ(rule_problems("just text").size(), 1u);
}

struct Case {
  std::vector<std::string> overrides;
  const char* problem;
};

class RuleRefuses : public ::testing::TestWithParam<Case> {};

TEST_P(RuleRefuses, OneProblem) {
  const auto lines = rule_problems(kEmoe, GetParam().overrides);
  ASSERT_EQ(lines.size(), 1u) << joined(lines);
  EXPECT_PROBLEM(lines, GetParam().problem);
}

INSTANTIATE_TEST_SUITE_P(
    Each, RuleRefuses,
    ::testing::Values(
        Case{{"model.path=null"}, "model.path: is required"},
        Case{{"data.train=null"}, "data.train: is required for task: train"},
        Case{{"task=trian"}, "task: unknown word \"trian\" (did you mean \"train\"?)"},
        Case{{"tuning=qlora"}, "use lora, full"},
        Case{{"model.dtype=float16"}, "use float32, bfloat16"},
        Case{{"data.format=alpacca"}, "did you mean \"alpaca\""},
        Case{{"data.max_length=1"}, "data.max_length: must be at least 2"},
        Case{{"data.fraction=0"}, "data.fraction: must be above 0 and at most 1, is 0"},
        Case{{"data.fraction=1.01"}, "data.fraction: must be"},
        Case{{"lora.rank=0"}, "lora.rank: must be at least 1"},
        Case{{"lora.alpha=0"}, "lora.alpha: must be above 0"},
        Case{{"lora.dropout=1"}, "lora.dropout: must be at least 0 and below 1"},
        Case{{"lora.targets=[q_proj, q_proj]"}, "lora.targets[1]: \"q_proj\" is given twice"},
        Case{{"emoe.experts=-1"}, "emoe.experts: must be at least 0"},
        Case{{"emoe.experts=null"}, "emoe.experts: is required"},
        Case{{"emoe.top_k=null"}, "emoe.top_k: is required with experts: 8"},
        Case{{"emoe.top_k=0"}, "emoe.top_k: must be at least 1"},
        Case{{"emoe.layers=null"}, "emoe.layers: is required"},
        Case{{"emoe.layers.list=[1]"},
             "emoe.layers.start: give start and every, or list, not both"},
        Case{{"emoe.layers={list: [1, 1]}"}, "emoe.layers.list[1]: layer 1 is given twice"},
        Case{{"emoe.layers={list: [-1]}"}, "emoe.layers.list[0]: must be at least 0"},
        Case{{"emoe.layers.every=0"}, "emoe.layers.every: must be at least 1"},
        Case{{"emoe.partition.method=file"}, "emoe.partition.path: is required with method: file"},
        Case{{"emoe.partition.restarts=0"}, "restarts: must be at least 1"},
        Case{{"emoe.selector=best"}, "use top, bottom, not_top"},
        Case{{"emoe.selector=not_top", "emoe.top_k=8"}, "leaves no expert"},
        Case{{"optimizer.learning_rate=0"}, "learning_rate: must be above 0"},
        Case{{"optimizer.learning_rate=.inf"}, "learning_rate: must be finite"},
        Case{{"optimizer.warmup_ratio=1"}, "warmup_ratio: must be at least 0 and below 1"},
        Case{{"optimizer.warmup_ratio=.nan"}, "warmup_ratio: must be finite"},
        Case{{"optimizer.max_grad_norm=-1"}, "max_grad_norm: must be at least 0"},
        Case{{"optimizer.beta1=1"}, "beta1: must be"},
        Case{{"optimizer.beta2=-0.1"}, "beta2: must be"},
        Case{{"optimizer.epsilon=0"}, "epsilon: must be above 0"},
        Case{{"train.epochs=0"}, "train.epochs: must be at least 1 unless"},
        Case{{"train.max_steps=-1"}, "max_steps: must be at least 0"},
        Case{{"train.loss_reduction=mean"}, "use token, example"},
        Case{{"checkpoint.keep=0"}, "keep: must be at least 1"},
        Case{{"parallel.ranks=0"}, "ranks: must be at least 1"},
        Case{{"parallel.ranks=129"}, "raise it to at least 129"},
        Case{{"parallel.ranks=4", "parallel.tensor=3"}, "tensor: must divide parallel.ranks 4"},
        Case{{"resources.max_attempts=0"}, "max_attempts: must be at least 1"},
        Case{{"resources.device=gpu"}, "use auto, cpu, cuda"},
        Case{{"name=" + std::string(129, 'x')}, "name: is longer than 128 bytes (129)"},
        Case{{"name=a\nb"}, "name: must not contain control characters"},
        Case{{"resources.kubernetes.memory_per_rank=1.5Gi"},
             "resources.kubernetes.memory_per_rank: \"1.5Gi\" is no quantity of memory"},
        Case{{"labels.a b=x"}, "labels.a b: a label's key has 1 to 63"},
        Case{{"labels.a=" + std::string(257, 'x')}, "labels.a: is longer than 256 bytes"},
        Case{{"evaluate={suite: mmlu}"}, "evaluate.path: is required"}),
    [](const auto& test) { return "case" + std::to_string(test.index); });

TEST(Rules, SwitchedOffPartsAreLeftAlone) {
  EXPECT_TRUE(rule_problems(kEmoe, {"emoe.experts=0"}).empty());
  EXPECT_TRUE(rule_problems(kEmoe, {"tuning=full"}).empty());
  EXPECT_TRUE(rule_problems(kEmoe, {"train.epochs=0", "train.max_steps=5"}).empty());
}

TEST(Rules, ARandomStartIsCheckedAsAModel) {
  const std::string init =
      "model: {init: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2,"
      " num_attention_heads: 8, num_key_value_heads: 4, tokenizer: /t}}\n"
      "data: {train: /d.txt, format: text}\ntuning: full\n";
  EXPECT_TRUE(rule_problems(init).empty()) << joined(rule_problems(init));
  EXPECT_PROBLEM(rule_problems(init, {"model.init.num_attention_heads=7"}),
                 "must divide hidden_size 64");
  EXPECT_PROBLEM(rule_problems(init, {"model.init.num_attention_heads=64"}), "must be even");
  EXPECT_PROBLEM(rule_problems(init, {"model.init.num_key_value_heads=3"}),
                 "must divide num_attention_heads 8");
  EXPECT_PROBLEM(rule_problems(init, {"model.init.tokenizer=null"}),
                 "model.init.tokenizer: is required");
  EXPECT_PROBLEM(rule_problems(init, {"tuning=lora"}), "use tuning: full");
  EXPECT_PROBLEM(rule_problems(init, {"data.max_length=4096"}), "max_position_embeddings 2048");
  EXPECT_PROBLEM(rule_problems(init, {"emoe={experts: 5, top_k: 1, layers: {start: 0}}"}),
                 "its divisors are 1, 2, 4, 43, 86, 172");
}

std::vector<std::string> model_problems(const std::string& yaml, const ModelShape& shape) {
  const auto job = read_job(yaml, "job.yaml", {});
  EXPECT_TRUE(job.ok()) << job.status();
  Diagnostics diagnostics;
  validate_against_model(resolve(job->spec), shape, job->locations, diagnostics);
  return problems_of(diagnostics.to_status());
}

TEST(ModelRules, DivisorsLayersAndLength) {
  const ModelShape shape{
      .num_hidden_layers = 5, .intermediate_size = 172, .max_position_embeddings = 512};
  EXPECT_TRUE(
      model_problems("emoe: {experts: 43, top_k: 2, layers: {list: [0, 4]}}", shape).empty());
  const auto lines = model_problems(
      "data: {max_length: 513}\nemoe:\n  experts: 64\n  top_k: 2\n  layers: {list: [4, 5, 9]}\n",
      shape);
  EXPECT_EQ(lines.size(), 4u) << joined(lines);
  EXPECT_PROBLEM(
      lines,
      "job.yaml:1: data.max_length: must be at most the model's max_position_embeddings 512");
  EXPECT_PROBLEM(lines,
                 "job.yaml:3: emoe.experts: must divide the model's intermediate_size 172, is 64; "
                 "its divisors are 1, 2, 4, 43, 86, 172");
  EXPECT_PROBLEM(lines, "emoe.layers.list[1]: no layer 5; the model has layers 0 to 4");
  EXPECT_PROBLEM(lines, "emoe.layers.list[2]: no layer 9");
  EXPECT_PROBLEM(model_problems("emoe: {experts: 4, top_k: 2, layers: {start: 5}}", shape),
                 "emoe.layers.start: no layer 5");
}

TEST(Tasks, AnEvaluationNeedsRowsHeldOutAndNoneToTrainOn) {
  const std::string good = "task: evaluate\nmodel: {path: /m}\ndata: {eval: /d.json}\n";
  EXPECT_TRUE(rule_problems(good).empty()) << joined(rule_problems(good));
  Diagnostics unsupported;
  reject_unsupported(resolve(read_job(good, "j", {})->spec), {}, unsupported);
  EXPECT_TRUE(unsupported.empty()) << unsupported.to_status();
  EXPECT_TRUE(rule_problems(good + "adapter: /a\ntrain: {micro_batch_tokens: 64}\n").empty());
  const auto lines = rule_problems("task: evaluate\nmodel: {path: /m}");
  EXPECT_EQ(lines.size(), 1u) << joined(lines);
  EXPECT_PROBLEM(lines,
                 "data.eval: is required for task: evaluate (rows), or evaluate.path (a suite)");
  EXPECT_TRUE(rule_problems("task: evaluate\nmodel: {path: /m}\nevaluate: {path: /s}\n").empty());
  EXPECT_PROBLEM(rule_problems(good + "evaluate: {path: /s, split: ../x}\n"),
                 "evaluate.split: must be the name of one folder or file, got \"../x\"");
}

TEST(Tasks, WhatTheTaskDoesNotUseIsRefusedWhereItWasWritten) {
  const auto lines = rule_problems(R"(task: evaluate
model: {path: /m}
data: {train: /t.json, eval: /d.json, fraction: 0.5}
tuning: lora
lora: {rank: 0}
optimizer: {}
train: {epochs: 3, micro_batch_tokens: 64}
checkpoint: {every_steps: 5}
export: {merged: false}
)");
  EXPECT_EQ(lines.size(), 8u) << joined(lines);
  for (const char* place : {"3: data.train", "3: data.fraction", "4: tuning", "5: lora",
                            "6: optimizer", "7: train.epochs", "8: checkpoint", "9: export"}) {
    EXPECT_PROBLEM(
        lines, std::string("job.yaml:") + place + ": is not used by task: evaluate; leave it out");
  }
  EXPECT_PROBLEM(rule_problems(kGood, {"adapter=/a"}),
                 "--set: adapter: is not used by task: train; leave it out");
  EXPECT_TRUE(rule_problems(kGood, {"adapter=''"}).empty()) << "an empty text is none";
}

TEST(Tasks, AMergeNeedsOneAdapterOrWeightedOnes) {
  const std::string start = "task: merge\nmodel: {path: /m}\n";
  EXPECT_TRUE(rule_problems(start + "adapter: /a\n").empty());
  EXPECT_TRUE(rule_problems(start + "merge: {adapters: [/a, /b], weights: [1, -0.5]}\n").empty());
  EXPECT_TRUE(rule_problems(start + "merge: {adapters: [/a, /b]}\n").empty());
  const auto lines = rule_problems(start +
                                   "merge: {adapters: [/a, /b], weights: [.nan, 0]}\n"
                                   "tuning: lora\nexport: {adapter: true}\n");
  EXPECT_EQ(lines.size(), 4u) << joined(lines);
  EXPECT_PROBLEM(lines, "job.yaml:3: merge.weights[0]: must be finite");
  EXPECT_PROBLEM(lines, "job.yaml:3: merge.weights[1]: is 0: leave the adapter out");
  EXPECT_PROBLEM(lines, "job.yaml:4: tuning: is not used by task: merge; leave it out");
  EXPECT_PROBLEM(lines, "job.yaml:5: export.adapter: is not used by task: merge; leave it out");
  EXPECT_PROBLEM(rule_problems(start + "merge: {weights: [1]}\n"), "merge.adapters: is required");
  EXPECT_PROBLEM(rule_problems(start + "adapter: /a\nmerge: {adapters: [/b]}\n"),
                 "adapter: give adapter or merge.adapters, not both");
}

TEST(Tasks, AConversionHasExpertsThatNobodyChooses) {
  const std::string start = "task: convert\nmodel: {path: /m}\n";
  EXPECT_TRUE(rule_problems(start).empty()) << "the way back";
  EXPECT_TRUE(rule_problems(start + "emoe: {experts: 4, layers: {start: 0}}\n"
                                    "export: {original_order: false}\n")
                  .empty());
  const auto lines = rule_problems(start +
                                   "emoe: {experts: 4, top_k: 2, layers: {start: 0}}\n"
                                   "parallel: {ranks: 2}\nexport: {dtype: float16}\n");
  EXPECT_EQ(lines.size(), 3u) << joined(lines);
  EXPECT_PROBLEM(lines, "emoe.top_k: is not used by task: convert; leave it out");
  EXPECT_PROBLEM(lines, "must be 1 for task: convert, which one process does; is 2");
  EXPECT_PROBLEM(lines, "export.dtype: is not used by task: convert; leave it out");
}

TEST(Paths, EachOfAListIsChanged) {
  v1::JobSpec spec = read_job("merge: {adapters: [a, /b]}\nadapter: c\n", "j", {})->spec;
  std::vector<std::string> keys;
  change_paths(spec, [&](const std::string& key, const std::string& path) {
    keys.push_back(key);
    return "/x/" + path;
  });
  EXPECT_EQ(keys, (std::vector<std::string>{"adapter", "merge.adapters[0]", "merge.adapters[1]"}));
  EXPECT_EQ(spec.merge().adapters(0), "/x/a");
  EXPECT_EQ(spec.adapter(), "/x/c");
}

TEST(ConvertedLayers, StartEveryAndList) {
  const auto layers = [](const std::string& emoe, int64_t n) {
    return converted_layers(resolve(read_job("emoe: " + emoe, "j", {})->spec), n);
  };
  using List = std::vector<int64_t>;
  EXPECT_EQ(layers("{experts: 4, top_k: 1, layers: {start: 28, every: 2}}", 32), (List{28, 30}));
  EXPECT_EQ(layers("{experts: 4, top_k: 1, layers: {start: 0, every: 1}}", 3), (List{0, 1, 2}));
  EXPECT_EQ(layers("{experts: 4, top_k: 1, layers: {list: [3, 1]}}", 5), (List{1, 3}));
  EXPECT_EQ(layers("{experts: 0, layers: {start: 0}}", 5), List{});
}

TEST(Unsupported, EachSaysWhatWorksInstead) {
  const auto job = read_job(kEmoe, "job.yaml",
                            {"task=analyze", "parallel.ranks=2",
                             "emoe.partition.method=coactivation", "emoe.gate=learned"});
  ASSERT_TRUE(job.ok()) << job.status();
  Diagnostics diagnostics;
  reject_unsupported(resolve(job->spec), job->locations, diagnostics);
  const auto lines = problems_of(diagnostics.to_status());
  EXPECT_EQ(lines.size(), 3u) << joined(lines);
  for (const auto& line : lines)
    EXPECT_NE(line.find("not supported yet: "), std::string::npos) << line;
  EXPECT_PROBLEM(lines, "--set: emoe.gate: not supported yet: gate: average is");
  Diagnostics none;
  reject_unsupported(resolve(read_job(kEmoe, "j", {})->spec), {}, none);
  EXPECT_TRUE(none.empty());
}

TEST(Rules, ASpecFromTheWireNeedsNoLocations) {
  v1::JobSpec spec;
  spec.mutable_optimizer()->set_beta1(std::numeric_limits<double>::quiet_NaN());
  Diagnostics diagnostics;
  validate(resolve(spec), {}, diagnostics);
  const auto lines = problems_of(diagnostics.to_status());
  EXPECT_EQ(lines.size(), 3u) << joined(lines);
  EXPECT_PROBLEM(lines, "optimizer.beta1: must be finite");
}

}  // namespace
}  // namespace emoe::config
