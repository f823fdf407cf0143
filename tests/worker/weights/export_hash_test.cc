#include <filesystem>

#include <gtest/gtest.h>

#include "base/sha256.h"
#include "tests/support/temp_dir.h"
#include "tests/worker/weights/tiny_model.h"
#include "worker/weights/export.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;
using emoe::testing::TempDir;
using testing::make_model;
using testing::perturb;
using testing::Tuning;
using testing::write_tiny_base;

// Without a check too, where files are hashed while they are written.
TEST(ExportHash, TheReportHasTheHashOfEveryFile) {
  const TempDir dir;
  const auto base =
      BaseWeights::open(write_tiny_base(dir / "base", {.max_shard_bytes = 20000})).value();
  Decoder model = make_model(base, Tuning::lora);
  perturb(model, 0.1);
  for (const bool verify : {false, true}) {
    ExportOptions options{.out = dir / "export", .dtype = "float32", .base_name = "tiny"};
    options.verify = verify;
    const auto report = export_model(model, base, options);
    ASSERT_TRUE(report.ok()) << report.status();
    EXPECT_EQ(report->verified, verify);
    size_t files = 0;
    for (const auto& file : fs::recursive_directory_iterator(options.out)) {
      const std::string name = fs::relative(file.path(), options.out).string();
      if (!file.is_regular_file() || name == "merge_report.json") continue;
      ++files;
      ASSERT_TRUE(report->sha256.contains(name)) << name;
      EXPECT_EQ(report->sha256.at(name), sha256_of_file(file.path()).value()) << name;
    }
    EXPECT_EQ(report->sha256.size(), files);
    EXPECT_GT(files, 5U);  // shards, index, config, adapter
  }
}

}  // namespace
}  // namespace emoe::worker
