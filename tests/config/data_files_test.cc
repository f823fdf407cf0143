// data.train as a text and as a list.
#include <gtest/gtest.h>

#include "config/data_options.h"
#include "tests/config/support.h"

namespace emoe::config {
namespace {

LoadedJob parsed(const std::string& yaml, const std::vector<std::string>& overrides,
                 Diagnostics& diagnostics) {
  return parse_job(yaml, "job.yaml", overrides, diagnostics);
}

std::vector<std::string> problems(const std::string& yaml,
                                  const std::vector<std::string>& overrides = {}) {
  Diagnostics diagnostics;
  const LoadedJob job = parsed(yaml, overrides, diagnostics);
  (void)check(job.spec, job.locations, std::nullopt, diagnostics);
  std::vector<std::string> lines;
  for (const Violation& violation : diagnostics.violations()) lines.push_back(to_string(violation));
  return lines;
}

constexpr char kList[] =
    "model: {path: /m}\n"
    "data:\n"
    "  train:\n"
    "  - /a.jsonl\n"
    "  - {path: b.jsonl, weight: 0.3}\n";

TEST(DataFiles, AListAtTrainIsAMixture) {
  Diagnostics diagnostics;
  LoadedJob job = parsed(kList, {}, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  make_paths_absolute(job.spec, "/here");
  const auto data = train_data(resolve(job.spec));
  ASSERT_EQ(data->files.size(), 2u);
  EXPECT_EQ(data->files[0].path, "/a.jsonl");
  EXPECT_EQ(data->files[0].weight, 1.0);
  EXPECT_EQ(data->files[1].path, "/here/b.jsonl");
  EXPECT_EQ(data->files[1].weight, 0.3);
  // As it was written, and read again.
  const std::string yaml = message_to_yaml(job.spec);
  EXPECT_NE(yaml.find("train:\n"), std::string::npos) << yaml;
  EXPECT_EQ(yaml.find("train_files"), std::string::npos) << yaml;
  EXPECT_EQ(message_to_yaml(parsed(yaml, {}, diagnostics).spec), yaml);
}

TEST(DataFiles, OneTextIsOneFile) {
  Diagnostics diagnostics;
  const LoadedJob job = parsed("data: {train: a.jsonl}\n", {}, diagnostics);
  EXPECT_EQ(job.spec.data().train(), "a.jsonl");
  const auto data = train_data(resolve(job.spec));
  ASSERT_EQ(data->files.size(), 1u);
  EXPECT_FALSE(eval_data(resolve(job.spec)));
}

TEST(DataFiles, AnOverrideTakesThePlaceOfEither) {
  Diagnostics diagnostics;
  EXPECT_EQ(
      train_data(resolve(parsed(kList, {"data.train=x.jsonl"}, diagnostics).spec))->files.size(),
      1u);
  const auto two = parsed("data: {train: a.jsonl}\n",
                          {"data.train=[b.jsonl, {path: c.jsonl, weight: 2}]"}, diagnostics);
  const auto data = train_data(resolve(two.spec));
  ASSERT_EQ(data->files.size(), 2u);
  EXPECT_EQ(data->files[1].weight, 2.0);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
}

TEST(DataFiles, WhatIsWrongWithAFileIsSaidAtItsPlace) {
  const std::string head = "model: {path: /m}\ndata:\n  train:\n  - /a.jsonl\n";
  for (const char* weight : {"0", "-1", ".nan", ".inf", "1001"}) {
    const auto lines = problems(head + "  - {path: /b.jsonl, weight: " + weight + "}\n");
    ASSERT_EQ(lines.size(), 1u) << weight;
    EXPECT_TRUE(lines[0].starts_with("job.yaml:5: data.train[1].weight: must be")) << lines[0];
  }
  EXPECT_PROBLEM(problems(head + "  - {weight: 2}\n"),
                 "job.yaml:5: data.train[1].path: is required");
  EXPECT_PROBLEM(problems(head + "  - {file: x}\n"), "data.train[1].file: unknown key");
  EXPECT_PROBLEM(problems("model: {path: /m}\ndata: {train: []}\n"), "must name at least one file");
  EXPECT_PROBLEM(problems(head, {"data.eval_fraction=1"}), "data.eval_fraction: must be above 0");
}

TEST(DataFiles, APartIsHeldOut) {
  Diagnostics diagnostics;
  const auto spec =
      resolve(parsed(kList, {"data.eval_fraction=0.1", "train.seed=7"}, diagnostics).spec);
  const auto train = train_data(spec);
  const auto eval = eval_data(spec);
  ASSERT_TRUE(train && eval);
  EXPECT_EQ(train->held_out.side, data::HeldOut::Side::train);
  EXPECT_EQ(eval->held_out.side, data::HeldOut::Side::eval);
  EXPECT_EQ(eval->held_out.fraction, 0.1);
  EXPECT_EQ(eval->files.size(), 2u);
  EXPECT_EQ(eval->seed, 7);
}

}  // namespace
}  // namespace emoe::config
