#include "worker/report/file_sink.h"

#include <cmath>
#include <csignal>
#include <fstream>
#include <limits>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>
#include <sys/resource.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::worker {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

std::vector<nlohmann::json> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<nlohmann::json> lines;
  for (std::string line; std::getline(file, line);) lines.push_back(nlohmann::json::parse(line));
  return lines;
}

std::vector<int64_t> steps_of(const std::filesystem::path& path) {
  std::vector<int64_t> steps;
  for (const auto& line : lines_of(path)) steps.push_back(line.at("step"));
  return steps;
}

StepRecord step(int64_t number, double loss = 1.0) {
  StepRecord record;
  record.step = number;
  record.loss = loss;
  return record;
}

TEST(FileSink, WritesTheKeysOfTheContractInFullPrecision) {
  const testing::TempDir dir;
  FileSink sink(dir.path());
  StepRecord record = step(0, 1.0 / 3.0);
  record.learning_rate = 2.0e-4;
  record.grad_norm = std::nextafter(1.0, 2.0);
  record.tokens = 100;
  record.target_tokens = 60;
  record.seconds = 0.1;
  sink.on(PlanRecord{1, 0});
  sink.on(record);
  sink.on(EvalRecord{5, 0.1, 0.2, std::exp(0.2), 7});
  ASSERT_TRUE(sink.finish().ok());
  EXPECT_THAT(read_file(dir / "metrics.jsonl").value(),
              StartsWith("{\"step\":0,\"loss\":0.3333333333333333,\"learning_rate\":0.0002,"
                         "\"grad_norm\":1.0000000000000002,\"tokens\":100,\"target_tokens\":60,"
                         "\"seconds\":0.1,\"ranks\":1}\n"));
  const auto eval = lines_of(dir / "eval.jsonl").at(0);
  EXPECT_EQ(eval.at("perplexity").get<double>(), std::exp(0.2));
  EXPECT_EQ(eval.at("target_tokens"), 7);
  EXPECT_EQ(eval.size(), 5u);
}

TEST(FileSink, ASuiteHasAFileOfItsOwn) {
  const testing::TempDir dir;
  FileSink sink(dir.path());
  const auto suite = [](double score) {
    return std::make_shared<const SuiteResult>(
        SuiteResult{.suite = "mmlu",
                    .shots = 1,
                    .split = "val",
                    .subjects = {{.name = "birds",
                                  .questions = {{.scores = {score, 0, 0, 0}, .answer = 0}},
                                  .unscored = {4}}}});
  };
  const auto right = suite(1.0);
  sink.on(EvalRecord{.step = 0, .suite = right, .suite_dense = right});
  ASSERT_TRUE(sink.finish().ok());
  EXPECT_FALSE(std::filesystem::exists(dir / "evaluation_dense.json"));
  EXPECT_EQ(read_file(dir / "evaluation.json").value(), right->to_json());
  auto line = lines_of(dir / "eval.jsonl").at(0);
  EXPECT_FALSE(line.contains("loss")) << "there were no rows";
  EXPECT_EQ(line.at("accuracy"), 1.0);
  EXPECT_EQ(line.at("unscored"), 1);

  sink.on(EvalRecord{
      .step = 4, .loss = 1.0, .target_tokens = 2, .suite = suite(-1.0), .suite_dense = right});
  EXPECT_EQ(read_file(dir / "evaluation_dense.json").value(), right->to_json());
  EXPECT_NE(read_file(dir / "evaluation.json").value(), right->to_json());
  line = lines_of(dir / "eval.jsonl").at(1);
  EXPECT_EQ(line.at("loss"), 1.0);
  EXPECT_EQ(line.at("accuracy"), 0.0);
  EXPECT_EQ(line.at("accuracy_dense"), 1.0);
  EXPECT_EQ(line.at("accuracy_subject_mean_dense"), 1.0);
}

TEST(FileSink, AResumedRunHasEachStepOnce) {
  const testing::TempDir dir;
  {
    FileSink sink(dir.path());
    sink.on(PlanRecord{10, 0});
    sink.on(EvalRecord{0, 2.0, 2.0, 7.4, 1});
    for (int64_t i = 0; i < 6; ++i) sink.on(step(i, 1.0));
    sink.on(EvalRecord{4, 1.0, 1.0, 2.7, 1});
    sink.on(EvalRecord{6, 1.0, 1.0, 2.7, 1});
  }
  std::ofstream(dir / "metrics.jsonl", std::ios::app) << "{\"step\":6,\"lo";  // killed in a write
  FileSink sink(dir.path());
  sink.on(PlanRecord{10, 4});
  sink.on(EvalRecord{4, 3.0, 3.0, 20.1, 1});  // made again where the run goes on
  for (int64_t i = 4; i < 8; ++i) sink.on(step(i, 0.5));
  EXPECT_THAT(steps_of(dir / "metrics.jsonl"), ElementsAre(0, 1, 2, 3, 4, 5, 6, 7));
  EXPECT_EQ(lines_of(dir / "metrics.jsonl")[3].at("loss"), 1.0);
  EXPECT_EQ(lines_of(dir / "metrics.jsonl")[4].at("loss"), 0.5);
  EXPECT_THAT(steps_of(dir / "eval.jsonl"), ElementsAre(0, 4));
  EXPECT_EQ(lines_of(dir / "eval.jsonl")[1].at("loss"), 3.0);
}

TEST(FileSink, AFreshStartDropsEverything) {
  const testing::TempDir dir;
  std::ofstream(dir / "metrics.jsonl") << "{\"step\":0}\nnonsense\n{\"step\":1}\n";
  FileSink sink(dir.path());
  sink.on(PlanRecord{2, 0});
  sink.on(step(0));
  EXPECT_THAT(steps_of(dir / "metrics.jsonl"), ElementsAre(0));
}

TEST(FileSink, NonFiniteNumbersStayJson) {
  const testing::TempDir dir;
  FileSink sink(dir.path());
  sink.on(step(0, std::numeric_limits<double>::quiet_NaN()));
  EXPECT_TRUE(lines_of(dir / "metrics.jsonl").at(0).at("loss").is_null());
}

TEST(FileSink, ACheckpointFindsAllLinesWritten) {
  const testing::TempDir dir;
  FileSink sink(dir.path());
  sink.before_checkpoint();                                           // before there is a file
  ASSERT_TRUE(emoe::create_directories(dir / "metrics.jsonl").ok());  // nothing can be written
  sink.on(StepRecord{.step = 0});
  std::filesystem::remove(dir / "metrics.jsonl");
  sink.on(Phase::checkpoint);  // a run that resumes enters it too
  EXPECT_FALSE(std::filesystem::exists(dir / "metrics.jsonl"));
  sink.before_checkpoint();
  EXPECT_EQ(lines_of(dir / "metrics.jsonl").size(), 1u);
}

// A limit on the file's size stands for the full disk: writes fail after a part of them.
TEST(FileSink, AFullDiskLeavesNoHalfLineAndLosesNothing) {
  const testing::TempDir dir;
  FileSink sink(dir.path());
  sink.on(step(0));
  rlimit before{};
  ::getrlimit(RLIMIT_FSIZE, &before);
  const auto previous = ::signal(SIGXFSZ, SIG_IGN);
  const rlimit tight{std::filesystem::file_size(dir / "metrics.jsonl") + 10, before.rlim_max};
  ::setrlimit(RLIMIT_FSIZE, &tight);
  sink.on(step(1));
  EXPECT_FALSE(sink.finish().ok());
  EXPECT_THAT(steps_of(dir / "metrics.jsonl"), ElementsAre(0));
  ::setrlimit(RLIMIT_FSIZE, &before);
  ::signal(SIGXFSZ, previous);
  sink.on(step(2));
  EXPECT_TRUE(sink.finish().ok());
  EXPECT_THAT(steps_of(dir / "metrics.jsonl"), ElementsAre(0, 1, 2));
}

// A script finds the file also where there is nothing to tell.
TEST(FileSink, WarningsAreAListThatGrows) {
  const testing::TempDir dir;
  const auto file = dir / "warnings.json";
  {
    FileSink earlier(dir.path());
    earlier.on(Warnings{{"OLD", "of an attempt before", "here"}});
  }
  FileSink sink(dir.path());
  sink.on(Warnings{});
  EXPECT_EQ(read_file(file).value(), "[]\n");
  sink.on(Warnings{{"ROWS_CUT", "2 of 9 rows cut \xff", "data.train", 2, "a.json:4"}});
  sink.on(Warnings{{"OTHER", "x", "here"}, {"ROWS_CUT", "3 of 9", "data.train", 3, "a.json:4"}});
  ASSERT_TRUE(sink.finish().ok());
  EXPECT_EQ(nlohmann::json::parse(read_file(file).value()), nlohmann::json::parse(R"([
    {"code": "ROWS_CUT", "text": "3 of 9", "where": "data.train", "count": 3, "first": "a.json:4"},
    {"code": "OTHER", "text": "x", "where": "here", "count": 1, "first": ""}])"));
  sink.on(CheckpointFailure{{"CHECKPOINT_FAILED", "1 not written", "checkpoints"}});
  sink.on(CheckpointFailure{{"CHECKPOINT_FAILED", "2 not written", "checkpoints", 2}});
  const auto list = nlohmann::json::parse(read_file(file).value());
  ASSERT_EQ(list.size(), 3u);
  EXPECT_EQ(list[2]["count"], 2);
}

}  // namespace
}  // namespace emoe::worker
