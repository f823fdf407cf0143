#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

#include <absl/strings/str_cat.h>
#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/run/job_plan.h"

namespace emoe::worker::testing {

// A job on copies of the suite's own model and rows, which a test may change.
class TinyJob {
 public:
  TinyJob() {
    const char* source = std::getenv("EMOE_SOURCE_DIR");
    EXPECT_NE(source, nullptr);
    const auto data = std::filesystem::path(source) / "tests/reference/data";
    std::filesystem::copy(data / "tiny", model());
    std::filesystem::copy(data / "rows.json", rows());
  }

  [[nodiscard]] std::filesystem::path model() const { return dir_ / "model"; }
  [[nodiscard]] std::filesystem::path rows() const { return dir_ / "rows.json"; }
  [[nodiscard]] std::filesystem::path operator/(const std::string& name) const {
    return dir_ / name;
  }
  [[nodiscard]] JobPlan plan(const std::vector<std::string>& overrides = {}) const {
    const auto job = dir_ / "spec.yaml";
    const std::string text = absl::StrCat(
        "name: tiny\nmodel: {path: ", model().string(), "}\ndata: {train: ", rows().string(),
        ", max_length: 64}\ntrain: {max_steps: 2, global_batch: 2}\n");
    EXPECT_TRUE(write_file_atomically(job, text).ok());
    return plan_job(job, overrides);
  }

 private:
  emoe::testing::TempDir dir_;
};

}  // namespace emoe::worker::testing
