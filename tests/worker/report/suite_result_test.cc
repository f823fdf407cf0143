#include "worker/report/suite_result.h"

#include <cmath>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

namespace emoe::worker {
namespace {

using nlohmann::json;

SuiteResult result() {
  return {.suite = "mmlu",
          .shots = 2,
          .split = "val",
          .subjects = {
              {.name = "birds",
               .questions = {{.row = 0, .shots = 2, .scores = {-1, -3, -1, -2}, .answer = 0},
                             {.row = 2, .shots = 1, .scores = {-4, -3, -2, -1}, .answer = 0},
                             {.row = 3, .shots = 2, .scores = {-4, -3, -2, -1}, .answer = 3}},
               .unscored = {1}},
              {.name = "fish",
               .questions = {{.row = 0, .shots = 2, .scores = {-1, -0.5, -1, -2}, .answer = 2}},
               .unscored = {}},
              {.name = "long", .questions = {}, .unscored = {0, 1}}}};
}

TEST(SuiteResult, CountsScoredQuestionsAndSubjects) {
  EXPECT_EQ(result().scored(), 4);
  EXPECT_EQ(result().unscored(), 3);
  EXPECT_DOUBLE_EQ(result().accuracy(), 0.5);
  EXPECT_DOUBLE_EQ(result().accuracy_subject_mean(), (2.0 / 3 + 0) / 2);  // without "long"
  EXPECT_TRUE(std::isnan(SuiteResult{}.accuracy()));
}

TEST(SuiteResult, IsTheContractsJson) {
  const json report = json::parse(result().to_json());
  EXPECT_EQ(report["suite"], "mmlu");
  EXPECT_EQ(report["shots"], 2);
  EXPECT_EQ(report["split"], "val");
  EXPECT_EQ(report["scored"], 4);
  EXPECT_EQ(report["unscored"], json::parse(R"([["birds", 1], ["long", 0], ["long", 1]])"));
  EXPECT_EQ(report["subjects"]["fish"], json::parse(R"({"scored": 1, "accuracy": 0.0})"));
  EXPECT_EQ(report["subjects"]["long"], json::parse(R"({"scored": 0, "accuracy": null})"));
  // Of equal scores the first letter wins.
  EXPECT_EQ(report["questions"][0], json::parse(R"({"subject": "birds", "row": 0, "shots": 2,
      "scores": [-1.0, -3.0, -1.0, -2.0], "prediction": "A", "answer": "A"})"));
  EXPECT_EQ(report["questions"][1]["prediction"], "D");
}

}  // namespace
}  // namespace emoe::worker
