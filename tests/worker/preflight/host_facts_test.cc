#include "worker/preflight/host_facts.h"

#include <algorithm>
#include <filesystem>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace emoe::worker {
namespace {

std::string value_of(const std::vector<PreflightRow>& rows, const std::string& check) {
  const auto found = std::ranges::find(rows, check, &PreflightRow::check);
  return found == rows.end() ? "none" : found->verdict + " " + found->value;
}

TEST(HostFacts, EveryHostHasThem) {
  const auto rows = host_facts(-1);
  for (const char* check : {"device", "memory free", "/dev/shm free", "memlock limit",
                            "open files limit", "version of emoe"}) {
    EXPECT_NE(value_of(rows, check), "none") << check;
  }
}

TEST(HostFacts, TheDiskIsMeasuredAndLeftAsItWas) {
  const testing::TempDir dir;
  const auto rows = disk_facts(dir.path());
  EXPECT_NE(value_of(rows, "output: write"), "none");
  EXPECT_NE(value_of(rows, "output: fsync"), "none");
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
  const auto nowhere = disk_facts(dir / "not" / "there");
  ASSERT_EQ(nowhere.size(), 1U);
  EXPECT_EQ(nowhere[0].verdict, "bad");
  EXPECT_NE(nowhere[0].value.find("No such file"), std::string::npos) << nowhere[0].value;
}

// The library of the test says what a hot card with an uncorrected error would.
TEST(GpuFacts, AreThoseOfNvml) {
  const auto rows = gpu_facts(1, EMOE_FAKE_NVML);
  EXPECT_EQ(value_of(rows, "GPU"), "ok Fake GPU 1");
  EXPECT_EQ(value_of(rows, "version of the driver"), "ok 550.1");
  EXPECT_EQ(value_of(rows, "GPU memory free"), "ok 80 GB");
  EXPECT_EQ(value_of(rows, "GPU ECC errors"), "bad 3");
  EXPECT_EQ(value_of(rows, "GPU clock"), "warn 0.5 (900 of 1800 MHz)");
}

TEST(GpuFacts, NoneWhereThereIsNoLibraryOrNoSuchGpu) {
  EXPECT_TRUE(gpu_facts(0, "libnothing-of-the-kind.so.1").empty());
  EXPECT_TRUE(gpu_facts(7, EMOE_FAKE_NVML).empty());
}

}  // namespace
}  // namespace emoe::worker
