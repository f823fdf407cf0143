#include "server/control/gpu_types.h"

#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

void add(v1::PreflightReport& report, int rank, const std::string& check,
         const std::string& value) {
  v1::PreflightRow& row = *report.add_rows();
  row.set_rank(rank);
  row.set_check(check);
  row.set_value(value);
}

v1::PreflightReport report_of(const std::string& name, const std::string& free) {
  v1::PreflightReport report;
  add(report, 0, "memory free", "100 GB");
  add(report, 0, "GPU", name);
  add(report, 0, "GPU memory free", free);
  return report;
}

TEST(GpuTypes, AreLearnedFromPreflightsAndKept) {
  const testing::TempDir dir;
  const auto file = dir / "gpus.json";
  {
    GpuTypes gpus(file);
    EXPECT_EQ(gpus.smallest().bytes, 0);
    v1::PreflightReport report = report_of("NVIDIA H200", "139 GB");
    add(report, 1, "GPU", "NVIDIA H200");
    add(report, 1, "GPU memory free", "12.5 GB");  // somebody else has the rest
    ASSERT_TRUE(gpus.learn(report).ok());
    EXPECT_EQ(gpus.smallest().name, "NVIDIA H200");
    EXPECT_EQ(gpus.smallest().bytes, 139'000'000'000);
    ASSERT_TRUE(gpus.learn(report_of("T4", "15.6 GB")).ok());
  }
  const GpuTypes again(file);
  EXPECT_EQ(again.smallest().name, "T4");
  EXPECT_EQ(again.smallest().bytes, 15'600'000'000);
}

TEST(GpuTypes, DoNotBelieveWhatIsNoAmount) {
  const testing::TempDir dir;
  for (const char* value : {"", "much", "12 apples", "-3 GB", "nan GB", "1e300 GB", "12"}) {
    GpuTypes gpus(dir / "gpus.json");
    EXPECT_TRUE(gpus.learn(report_of("X", value)).ok()) << value;
    EXPECT_EQ(gpus.smallest().bytes, 0) << value;
  }
  std::ofstream(dir / "gpus.json") << "{\"X\": ";
  EXPECT_EQ(GpuTypes(dir / "gpus.json").smallest().bytes, 0) << "a damaged file";
}

}  // namespace
}  // namespace emoe::server
