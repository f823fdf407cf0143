#include "tests/config/support.h"

namespace emoe::config {
namespace {

v1::JobSpec with(const std::string& yaml, const std::vector<std::string>& overrides) {
  const auto job = read_job(yaml, "job.yaml", overrides);
  EXPECT_TRUE(job.ok()) << job.status();
  return job.ok() ? job->spec : v1::JobSpec();
}

TEST(Overrides, ReplaceScalarsListsAndMappings) {
  const auto spec =
      with("lora: {rank: 4, targets: [q_proj]}\nemoe: {experts: 64, top_k: 16}\nlabels: {a: b}",
           {"optimizer.learning_rate=1e-4", "lora.targets=[k_proj, o_proj]",
            "emoe={experts: 8, top_k: 2}", "labels.team=research", "labels.a.b/c=1=2",
            "train.seed=1", "train.seed=2", "resources.max_runtime=5m", "data.packing=false"});
  EXPECT_EQ(spec.optimizer().learning_rate(), 1e-4);
  EXPECT_EQ(spec.lora().rank(), 4);
  ASSERT_EQ(spec.lora().targets_size(), 2);
  EXPECT_EQ(spec.lora().targets(0), "k_proj");
  EXPECT_EQ(spec.emoe().experts(), 8);
  EXPECT_EQ(spec.emoe().top_k(), 2);
  EXPECT_EQ(spec.labels().at("a"), "b");
  EXPECT_EQ(spec.labels().at("team"), "research");
  EXPECT_EQ(spec.labels().at("a.b/c"), "1=2");
  EXPECT_EQ(spec.train().seed(), 2);
  EXPECT_EQ(spec.resources().max_runtime().seconds(), 300);
  EXPECT_FALSE(spec.data().packing());
}

TEST(Overrides, TextNeedsNoQuotesAndKeepsItsSigns) {
  const auto spec = with("", {"name=2026", "data.train=/a b/#c: [d].json", "data.eval='x y'",
                              "labels.on=true", "model.path=''"});
  EXPECT_EQ(spec.name(), "2026");
  EXPECT_EQ(spec.data().train(), "/a b/#c: [d].json");
  EXPECT_EQ(spec.data().eval(), "x y");
  EXPECT_EQ(spec.labels().at("on"), "true");
  EXPECT_EQ(spec.model().path(), "");
}

// As `--set adapter=$ADAPTER` is where nobody set the variable.
TEST(Overrides, NothingBehindTheSignIsNoText) {
  const auto lines = parse_problems("", {"adapter=", "labels.team=", "name=\"\""});
  EXPECT_EQ(lines.size(), 2u) << joined(lines);
  EXPECT_PROBLEM(lines, "--set: adapter: has no value");
  EXPECT_PROBLEM(lines, "adapter=null takes the key out");
  EXPECT_PROBLEM(lines, "--set: labels.team: has no value");
}

TEST(Overrides, NullRemovesAKey) {
  const auto spec =
      with("emoe: {experts: 4}\nname: a\nlabels: {a: b, c: d}\ntrain: {epochs: 2, seed: 7}",
           {"emoe=null", "name=null", "labels.a=null", "train.epochs=~"});
  EXPECT_FALSE(spec.has_emoe());
  EXPECT_FALSE(spec.has_name());
  EXPECT_EQ(spec.labels_size(), 1);
  EXPECT_FALSE(spec.train().has_epochs());
  EXPECT_EQ(spec.train().seed(), 7);
}

// A section that appears with nothing in it would have required keys.
TEST(Overrides, NullBelowAnAbsentMappingMakesNothing) {
  const auto spec = with("name: a", {"emoe.top_k=null", "model.init.seed=~", "labels.a=null"});
  EXPECT_EQ(spec.ByteSizeLong(), with("name: a", {}).ByteSizeLong());
}

TEST(Overrides, ProblemsComeTogetherWithThoseOfTheFile) {
  const auto lines = parse_problems(
      "tunning: x", {"optimizer.learningrate=1", "train.epochs=many", "novalue", "=1",
                     "name.first=x", "train.epochs=", "lora.targets=[a", "optimzer.beta1=0.5",
                     "labels.=x", "labels.={a: b}", "train.=1", "tr\xff=1"});
  EXPECT_EQ(lines.size(), 13u) << joined(lines);
  EXPECT_PROBLEM(lines, "--set: labels.: the name below labels is missing");
  EXPECT_PROBLEM(lines, "--set: train.: unknown key");
  EXPECT_PROBLEM(lines, "not UTF-8 text");
  EXPECT_PROBLEM(lines, "job.yaml:1: tunning");
  EXPECT_PROBLEM(lines,
                 "--set: optimizer.learningrate: unknown key (did you mean \"learning_rate\"?)");
  EXPECT_PROBLEM(lines, "--set: train.epochs: expected a whole number, got the text \"many\"");
  EXPECT_PROBLEM(lines, "--set: novalue: expected key=value");
  EXPECT_PROBLEM(lines, "--set: =1: expected key=value");
  EXPECT_PROBLEM(lines, "--set: name.first: name has no keys below it");
  EXPECT_PROBLEM(lines, "--set: train.epochs: has no value");
  EXPECT_PROBLEM(lines, "--set: lora.targets: not valid YAML");
  EXPECT_PROBLEM(lines, "--set: optimzer: unknown key (did you mean \"optimizer\"?)");
}

}  // namespace
}  // namespace emoe::config
