#include "worker/preflight/verdicts.h"

#include <limits>

#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

TEST(Verdicts, ANumberIsJudgedByTheTable) {
  EXPECT_EQ(judged("open files limit", 65536).verdict, "ok");
  EXPECT_EQ(judged("open files limit", 65536).advice, "");
  EXPECT_EQ(judged("open files limit", 1000).verdict, "warn");
  const PreflightRow few = judged("open files limit", 255);
  EXPECT_EQ(few.verdict, "bad");
  EXPECT_EQ(few.value, "255");
  EXPECT_NE(few.advice.find("ulimit -n"), std::string::npos);
  EXPECT_EQ(judged("clock difference", 0.5).verdict, "ok");
  EXPECT_EQ(judged("clock difference", 2).verdict, "warn");
  EXPECT_EQ(judged("clock difference", 301).verdict, "bad");
  EXPECT_EQ(judged("GPU ECC errors", 0).verdict, "ok");
  EXPECT_EQ(judged("GPU ECC errors", 1).verdict, "bad");
  EXPECT_EQ(judged("memlock limit", 0).verdict, "warn");  // never bad
}

TEST(Verdicts, NumbersHaveTheirUnits) {
  EXPECT_EQ(judged("memory free", 12.3e9).value, "12.3 GB");
  EXPECT_EQ(judged("all-reduce 16 MiB", 7.89e9, " (4 ms)").value, "7.89 GB/s (4 ms)");
  EXPECT_EQ(judged("all-reduce 8 B", 12e-6).value, "0.012 ms");
  EXPECT_EQ(judged("memlock limit", std::numeric_limits<double>::infinity()).value, "unlimited");
}

PreflightRow of_rank(int rank, PreflightRow row) {
  row.rank = rank;
  row.host = "n" + std::to_string(rank);
  return row;
}

TEST(Verdicts, RanksHaveTheSameVersions) {
  std::vector<PreflightRow> rows{
      of_rank(0, noted("version of emoe", "1.0")), of_rank(0, noted("version of NCCL", "2.18.5")),
      of_rank(1, noted("version of emoe", "1.1")), of_rank(1, noted("version of NCCL", "2.19.1")),
      of_rank(1, noted("GPU", "another"))};
  compare_versions(rows);
  EXPECT_EQ(rows[0].verdict, "ok");
  EXPECT_EQ(rows[2].verdict, "bad");
  EXPECT_EQ(rows[2].advice, "rank 0 on host n0 has 1.0: install the same on all hosts");
  EXPECT_EQ(rows[3].verdict, "warn");
  EXPECT_EQ(rows[4].verdict, "ok");
}

TEST(Verdicts, WhatIsBadIsSaidInOneLine) {
  EXPECT_EQ(bad_rows_text({judged("open files limit", 1000)}), "");
  const PreflightRow slow = judged("all-reduce 16 MiB", 1e6);
  EXPECT_EQ(bad_rows_text({of_rank(1, failed("output: write", "no space", "make room")),
                           of_rank(0, judged("open files limit", 1000)), slow}),
            "2 checks are bad: output: write of rank 1 on host n1 is no space (make room); "
            "all-reduce 16 MiB of all ranks is 1 MB/s (" +
                slow.advice + ")");
}

}  // namespace
}  // namespace emoe::worker
