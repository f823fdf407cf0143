#include "worker/run/prepare.h"

#include <set>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/run/tiny_job.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using testing::TinyJob;
using Overrides = std::vector<std::string>;

Prepared prepare_job(const TinyJob& job, const JobPlan& plan) {
  ContentHasher hasher(job / "cache");
  return prepare(
      plan, job / "cache", /*threads=*/1, hasher, [] {}, [] { return false; });
}

std::string failure(const TinyJob& job, const Overrides& overrides, ExitCode expected) {
  try {
    (void)prepare_job(job, job.plan(overrides));
  } catch (const JobError& error) {
    EXPECT_EQ(error.code(), expected) << error.what();
    return error.what();
  }
  return "prepared";
}

TEST(Prepare, HoldsWhatTheTaskNeeds) {
  const TinyJob job;
  const std::string eval = "data.eval=" + job.rows().string();
  const Prepared train = prepare_job(job, job.plan({eval}));
  ASSERT_TRUE(train.train && train.eval);
  EXPECT_EQ(train.train->rows.size(), train.eval->rows.size());
  EXPECT_EQ(train.hashes.train, train.hashes.eval);
  EXPECT_TRUE(train.emoe.partitions.empty());
  EXPECT_FALSE(train.hashes.model.empty() || train.hashes.program.empty());

  const Prepared evaluate =
      prepare_job(job, job.plan({"task=evaluate", "data.train=null", "train=null", eval,
                                 "emoe={experts: 8, top_k: 3, layers: {list: [0, 2]}}"}));
  EXPECT_FALSE(evaluate.train.has_value());
  EXPECT_EQ(evaluate.eval->rows.size(), train.eval->rows.size());
  EXPECT_TRUE(evaluate.hashes.train.empty());
  EXPECT_EQ(evaluate.emoe.partitions.size(), 2u);
}

// What a resumed run must find unchanged, and nothing else.
TEST(Prepare, TheFingerprintIsThatOfTheNumbers) {
  const TinyJob job;
  const auto fingerprint = [&](const Overrides& overrides) {
    return prepare_job(job, job.plan(overrides)).fingerprint;
  };
  const std::string first = fingerprint({});
  EXPECT_EQ(first, fingerprint({"name=other", "checkpoint.keep=9", "data.packing=false"}));
  EXPECT_EQ(first, fingerprint({"data.eval=" + job.rows().string()}));
  EXPECT_NE(first, fingerprint({"train.seed=8"}));
  const std::string emoe = "emoe={experts: 8, top_k: 3, layers: {list: [0]}, partition: {method: ";
  const std::string contiguous = fingerprint({emoe + "contiguous}}"});
  EXPECT_NE(first, contiguous);
  EXPECT_NE(contiguous, fingerprint({emoe + "random}}"}));
}

TEST(Prepare, AJobWithHashesMustFindThatContent) {
  const TinyJob job;
  const std::string found = prepare_job(job, job.plan()).hashes.train;
  EXPECT_EQ(failure(job, {"hashes.train=" + found}, ExitCode::done), "prepared");
  const std::string said = failure(job, {"hashes.train=" + std::string(64, '0')}, ExitCode::data);
  EXPECT_NE(said.find("hashes.train: the job was made for content 000"), std::string::npos) << said;
  EXPECT_NE(said.find(found), std::string::npos) << said;
}

TEST(Prepare, AModelThatDoesNotStopWhereRowsEnd) {
  const TinyJob job;
  const auto config = job.model() / "config.json";
  std::string text = read_file(config).value();
  const size_t at = text.find("\"eos_token_id\": 2");
  ASSERT_NE(at, std::string::npos) << text;
  ASSERT_TRUE(write_file_atomically(config, text.replace(at, 17, "\"eos_token_id\": 5")).ok());
  const std::string said = failure(job, {}, ExitCode::data);
  EXPECT_NE(said.find("eos_token_id of config.json is 5"), std::string::npos) << said;
}

// The tiny base is float32.
TEST(Prepare, CollectsWhatIsToBeSaid) {
  const TinyJob job;
  std::string rows = "[";
  for (int i = 0; i < 7; ++i)
    rows += absl::StrCat(i > 0 ? ",\n" : "", R"({"text": "row )", i, "\"}");
  ASSERT_TRUE(write_file_atomically(job.rows(), rows + "]").ok());
  const auto codes = [&](Overrides overrides) {
    overrides.emplace_back("data.format=text");
    std::set<std::string> found;
    for (const Warning& told : prepare_job(job, job.plan(overrides)).warnings) {
      EXPECT_TRUE(found.insert(told.code).second) << to_string(told);
    }
    return found;
  };
  using Codes = std::set<std::string>;
  const std::string same = "model.dtype=float32";
  EXPECT_EQ(codes({}), Codes{"DEFAULT_DIFFERS"});
  EXPECT_EQ(codes({same}), Codes{});
  EXPECT_EQ(codes({same, "data.eval=" + job.rows().string()}), Codes{"EVAL_IN_TRAIN"});
  EXPECT_EQ(codes({same, "train.max_steps=1"}), Codes{"WARMUP_ONLY"});
  EXPECT_EQ(codes({same, "train.max_steps=0", "train.epochs=1", "train.global_batch=3"}),
            Codes{"ROWS_DROPPED"});
  EXPECT_EQ(codes({"tuning=full", "model.dtype=bfloat16"}), Codes{});  // asked for, and all changes
}

}  // namespace
}  // namespace emoe::worker
