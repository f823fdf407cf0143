#include "worker/run/output_folder.h"

#include <functional>
#include <map>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/run/tiny_job.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using testing::TinyJob;

std::map<std::string, std::string> snapshot(const fs::path& folder) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(folder)) {
    files[entry.path().string()] = entry.is_regular_file() ? read_file(entry.path()).value() : "";
  }
  return files;
}

std::optional<FileLock> claim(const OutputFolder& out, const JobPlan& plan) {
  ContentHasher hasher(out.cache());
  return claim_output_folder(out, plan, hasher, 0ms);
}

// Why both the check and the claim refuse; the folder is left as it was.
std::string refusal(const OutputFolder& out, const JobPlan& plan) {
  const auto before = snapshot(out.root);
  std::vector<std::string> said;
  ContentHasher hasher(out.cache());
  for (const auto& attempt : std::vector<std::function<void()>>{
           [&] { check_output_folder(out, plan, hasher); }, [&] { (void)claim(out, plan); }}) {
    try {
      attempt();
      said.emplace_back("accepted");
    } catch (const JobError& error) {
      EXPECT_EQ(error.code(), ExitCode::configuration);
      said.emplace_back(error.what());
    }
  }
  EXPECT_EQ(said[0], said[1]);
  EXPECT_EQ(snapshot(out.root), before);
  return said[0];
}

// As a run leaves it that has read its files.
OutputFolder finished_run(const TinyJob& job, const JobPlan& plan) {
  const OutputFolder out{job / "out"};
  const auto lock = claim(out, plan);
  ContentHasher hasher("");
  write_job_yaml(out, plan, hash_inputs(plan, hasher).value());
  EXPECT_TRUE(write_file_atomically(out.root / "metrics.jsonl", "{\"step\": 0}\n").ok());
  return out;
}

TEST(OutputFolder, IsMadeByItsClaimAndTakenAgain) {
  const TinyJob job;
  const JobPlan plan = job.plan();
  const OutputFolder out{job / "deep/er/out"};
  ContentHasher hasher("");
  check_output_folder(out, plan, hasher);
  EXPECT_FALSE(fs::exists(job / "deep"));
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(claim(out, plan).has_value());
    EXPECT_TRUE(fs::exists(out.job_yaml()));
  }
}

TEST(OutputFolder, WhatIsNoRunsOrAnotherJobsIsLeftAlone) {
  const TinyJob job;
  const OutputFolder thesis{job / "thesis"};
  ASSERT_TRUE(emoe::create_directories(thesis.root).ok());
  ASSERT_TRUE(write_file_atomically(thesis.root / "thesis.txt", "x").ok());
  EXPECT_NE(refusal(thesis, job.plan()).find("is not the output folder of a run"),
            std::string::npos);
  const OutputFolder out = finished_run(job, job.plan());
  EXPECT_NE(refusal(out, job.plan({"train.seed=8"})).find("train.seed is 8, was 42"),
            std::string::npos);
  EXPECT_THROW((void)claim({job.rows()}, job.plan()), JobError);
}

TEST(OutputFolder, OtherContentUnderTheSameSpecIsAnotherJob) {
  const TinyJob job;
  const JobPlan plan = job.plan();
  const OutputFolder out = finished_run(job, plan);
  EXPECT_TRUE(claim(out, plan).has_value());
  const auto refused_with = [&](const fs::path& file, const std::string& reason) {
    const std::string before = read_file(file).value();
    ASSERT_TRUE(write_file_atomically(file, before + " ").ok());
    const std::string said = refusal(out, plan);
    EXPECT_NE(said.find("belongs to another job (" + reason + " has other content)"),
              std::string::npos)
        << said;
    ASSERT_TRUE(write_file_atomically(file, before).ok());
  };
  refused_with(job.rows(), "data.train");
  refused_with(job.model() / "config.json", "model.path");
  refused_with(job.model() / "model.safetensors", "model.path");
  refused_with(job.model() / "tokenizer.model", "the tokenizer");
  // The same content elsewhere is the same job.
  fs::copy(job.model(), job / "moved");
  EXPECT_TRUE(claim(out, job.plan({"model.path=" + (job / "moved").string()})).has_value());
}

TEST(OutputFolder, AnAdapterIsPartOfTheContentAndHeldOutDataMayJoin) {
  const TinyJob job;
  const OutputFolder out = finished_run(job, job.plan());
  const auto adapter = job / "adapter";
  ASSERT_TRUE(emoe::create_directories(adapter).ok());
  for (const char* name : {"adapter_config.json", "adapter_model.safetensors"}) {
    ASSERT_TRUE(write_file_atomically(adapter / name, name).ok());
  }
  EXPECT_NE(refusal(out, job.plan({"lora.init_adapter=" + adapter.string()}))
                .find("the adapter has other content"),
            std::string::npos);
  EXPECT_TRUE(claim(out, job.plan({"data.eval=" + job.rows().string()})).has_value());
}

TEST(OutputFolder, WhatAKilledWriteLeftIsNoObstacle) {
  const TinyJob job;
  const OutputFolder out{job / "out"};
  ASSERT_TRUE(emoe::create_directories(out.root).ok());
  ASSERT_TRUE(write_file_atomically(out.root / "job.yaml.tmp.4711", "na").ok());
  EXPECT_TRUE(claim(out, job.plan()).has_value());
  EXPECT_FALSE(fs::exists(out.root / "job.yaml.tmp.4711"));
  // Only that: a name that merely looks alike is somebody's.
  const OutputFolder other{job / "other"};
  ASSERT_TRUE(emoe::create_directories(other.root).ok());
  ASSERT_TRUE(write_file_atomically(other.root / "notes.tmp.x1", "na").ok());
  EXPECT_NE(refusal(other, job.plan()).find("is not the output folder"), std::string::npos);
}

TEST(OutputFolder, OneRunAtATime) {
  const TinyJob job;
  const JobPlan plan = job.plan();
  const OutputFolder out{job / "out"};
  {
    const auto first = claim(out, plan);
    try {
      (void)claim(out, plan);
      ADD_FAILURE() << "claimed twice";
    } catch (const JobError& error) {
      EXPECT_EQ(error.code(), ExitCode::configuration);
      EXPECT_NE(std::string(error.what()).find("in use by another run"), std::string::npos);
    }
  }
  EXPECT_TRUE(claim(out, plan).has_value());  // the lock went with its holder
}

}  // namespace
}  // namespace emoe::worker
