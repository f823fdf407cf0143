#include "config/reader.h"

#include <cmath>
#include <limits>

#include "tests/config/support.h"

namespace emoe::config {
namespace {

using Lines = std::vector<std::string>;

TEST(Reader, FillsEveryKindOfField) {
  const auto job = read_job(R"(
name: "first job"
model: {path: /models/a, dtype: float32}
data: {train: a.json, max_length: 0x100, packing: false, fraction: .5}
lora: {targets: [q_proj, 'v_proj'], alpha: 16}
emoe: {experts: 8, layers: {list: [1, 3]}, partition: {seed: 9223372036854775807}}
optimizer: {learning_rate: 1e-4}
resources: {max_runtime: 1h30m, priority: -2}
labels: {team: research, "year": '2026'}
)",
                            "job.yaml", {});
  ASSERT_TRUE(job.ok()) << job.status();
  const auto& spec = job->spec;
  EXPECT_EQ(spec.name(), "first job");
  EXPECT_EQ(spec.data().max_length(), 256);
  EXPECT_FALSE(spec.data().packing());
  EXPECT_TRUE(spec.data().has_packing());
  EXPECT_EQ(spec.data().fraction(), 0.5);
  ASSERT_EQ(spec.lora().targets_size(), 2);
  EXPECT_EQ(spec.lora().targets(1), "v_proj");
  EXPECT_EQ(spec.lora().alpha(), 16.0);
  EXPECT_EQ(spec.emoe().layers().list(1), 3);
  EXPECT_EQ(spec.emoe().partition().seed(), std::numeric_limits<int64_t>::max());
  EXPECT_EQ(spec.optimizer().learning_rate(), 1e-4);
  EXPECT_EQ(spec.resources().max_runtime().seconds(), 5400);
  EXPECT_EQ(spec.resources().priority(), -2);
  EXPECT_EQ(spec.labels().at("year"), "2026");
  EXPECT_FALSE(spec.has_train());
}

TEST(Reader, RemembersWhereKeysStand) {
  const auto job =
      read_job("name: a\ntrain:\n  epochs: 1\n\n  seed: 2\nlora: {targets: [q_proj]}\n", "job.yaml",
               {"train.seed=3"});
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->locations.at("name"), "job.yaml:1");
  EXPECT_EQ(job->locations.at("train"), "job.yaml:2");
  EXPECT_EQ(job->locations.at("train.epochs"), "job.yaml:3");
  EXPECT_EQ(job->locations.at("train.seed"), "--set");
  EXPECT_EQ(job->locations.at("lora.targets[0]"), "job.yaml:6");
}

TEST(Reader, ReportsEveryProblemWithItsLine) {
  const auto lines = parse_problems(R"(name: x
tunning: lora
train:
  epochs: three
  global_batch: 1.5
optimizer: {learning_rate: fast}
model: path
)");
  EXPECT_EQ(lines,
            (Lines{
                "job.yaml:2: tunning: unknown key (did you mean \"tuning\"?)",
                "job.yaml:4: train.epochs: expected a whole number, got the text \"three\"",
                "job.yaml:5: train.global_batch: expected a whole number, got the number 1.5",
                "job.yaml:6: optimizer.learning_rate: expected a number, got the text \"fast\"",
                "job.yaml:7: model: expected a mapping of keys, got the text \"path\"",
            }))
      << joined(lines);
}

struct Case {
  const char* yaml;
  const char* reason;
};

class ReaderRefuses : public ::testing::TestWithParam<Case> {};

TEST_P(ReaderRefuses, WithLineAndReason) {
  const auto lines = parse_problems(GetParam().yaml);
  ASSERT_EQ(lines.size(), 1u) << joined(lines);
  EXPECT_EQ(lines[0].rfind("job.yaml:", 0), 0u) << lines[0];
  EXPECT_PROBLEM(lines, GetParam().reason);
}

INSTANTIATE_TEST_SUITE_P(
    Strictness, ReaderRefuses,
    ::testing::Values(
        Case{"data: {packing: yes}", "data.packing: expected true or false, got the text \"yes\""},
        Case{"data: {packing: 1}", "expected true or false, got the number 1"},
        Case{"data: {packing: 'true'}", "expected true or false, got the text \"true\""},
        Case{"train: {epochs: '1'}", "got the text \"1\"; remove the quotes"},
        Case{"train: {epochs: 1e2}", "expected a whole number, got the number 1e2"},
        Case{"train: {epochs: 1.0}", "expected a whole number"},
        Case{"train: {epochs: 1_000}", "expected a whole number, got the text"},
        Case{"train: {epochs: true}", "got the truth value true"},
        Case{"train: {epochs: 2147483648}", "does not fit into 32 bits"},
        Case{"train: {epochs: -2147483649}", "does not fit into 32 bits"},
        Case{"train: {seed: 9223372036854775808}", "does not fit into 64 bits"},
        Case{"train: {epochs: [1]}", "expected a whole number, got a list"},
        Case{"train: {epochs: {a: 1}}", "expected a whole number, got a mapping"},
        Case{"train: {epochs: }", "train.epochs: has no value"},
        Case{"train: {epochs: ~}", "train.epochs: has no value"},
        Case{"train:", "train: has no value"},
        Case{"train: []", "train: expected a mapping of keys, got a list"},
        Case{"optimizer: {learning_rate: 1e}", "expected a number, got the text"},
        Case{"optimizer: {learning_rate: nan}", "expected a number, got the text \"nan\""},
        Case{"optimizer: {learning_rate: 1e999}", "that a double can hold"},
        Case{"optimizer: {learning_rate: '1e-4'}", "expected a number, got the text"},
        Case{"name: 2026", "expected text, got the number 2026; to mean text write \"2026\""},
        Case{"name: true", "expected text, got the truth value true"},
        Case{"name: [a]", "expected text, got a list"},
        Case{"name: !!binary aGk=", "expected text, got a value with the tag"},
        Case{"lora: {targets: q_proj}", "expected a list such as [a, b], got the text"},
        Case{"lora: {targets: [q_proj, 1]}", "lora.targets[1]: expected text, got the number 1"},
        Case{"lora: {targets: []}", "lora.targets: must name at least one"},
        Case{"emoe: {layers: {list: [1, x]}}", "emoe.layers.list[1]: expected a whole number"},
        Case{"labels: [a]", "expected a mapping such as {key: text}, got a list"},
        Case{"labels: {a: 1}", "labels.a: expected text, got the number 1"},
        Case{"labels: {a: b, a: c}", "labels.a: given twice, first at job.yaml:1"},
        Case{"resources: {max_runtime: 90}", "expected a duration such as 90s, 5m or 1h30m"},
        Case{"resources: {max_runtime: soon}", "expected a duration"},
        Case{"name: a\nname: b", "job.yaml:2: name: given twice, first at job.yaml:1"},
        Case{"[a, b]", "expected a mapping of keys, got a list"},
        Case{"just text", "expected a mapping of keys, got the text"},
        Case{"zebra: 1", "unknown key; known here: name, task, adapter, model"},
        Case{"? [a]\n: b", "unknown key"}, Case{"name: [", "not valid YAML"},
        Case{"\tname: a", "not valid YAML"},
        Case{"task: a\nname: \x04", "job.yaml:2: control character 0x04"},
        Case{", name: a", "not valid YAML here"},
        Case{"name: a\n---\nname: b", "job.yaml:2: not valid YAML here, or a second document"}),
    [](const auto& test) { return "case" + std::to_string(test.index); });

TEST(Reader, RefusesWhatIsNotUtf8) {
  EXPECT_PROBLEM(parse_problems("name: \"\xff\xfe\""), "not UTF-8");
  EXPECT_PROBLEM(parse_problems("name: \xC0\xAF"), "not UTF-8");
  EXPECT_TRUE(parse_problems("name: größer 模型 🦙").empty());
}

TEST(Reader, AcceptsInfinityForTheRulesToJudge) {
  const auto job = read_job("optimizer: {learning_rate: .nan, weight_decay: -.inf}", "j", {});
  ASSERT_TRUE(job.ok());
  EXPECT_TRUE(std::isnan(job->spec.optimizer().learning_rate()));
  EXPECT_EQ(job->spec.optimizer().weight_decay(), -std::numeric_limits<double>::infinity());
}

TEST(Reader, AnEmptyFileIsAllDefaults) {
  for (const char* text : {"", "# only a comment\n", "---\n", "~"}) {
    const auto job = read_job(text, "job.yaml", {});
    ASSERT_TRUE(job.ok()) << text << job.status();
    EXPECT_EQ(job->spec.ByteSizeLong(), 0u);
  }
}

TEST(Reader, AnchorsWorkAndCyclesEnd) {
  const auto job = read_job("name: &n base\ntask: *n\n", "job.yaml", {});
  ASSERT_TRUE(job.ok());
  EXPECT_EQ(job->spec.task(), "base");
  EXPECT_FALSE(parse_problems("model: &m {init: *m}").empty());
}

TEST(Reader, MissingFileIsNotFound) {
  Diagnostics none;
  EXPECT_EQ(load_job("/no/such/job.yaml", {}, none).status().code(), StatusCode::kNotFound);
}

}  // namespace
}  // namespace emoe::config
