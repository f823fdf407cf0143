#include "launcher/local/attempt_files.h"

#include <csignal>
#include <cstdlib>
#include <fstream>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::launcher {
namespace {

TEST(AttemptFiles, EndIsReadAsWritten) {
  const testing::TempDir dir;
  const AttemptFiles files(dir.path());
  EXPECT_EQ(read_end(files).status().code(), StatusCode::kNotFound);
  ASSERT_TRUE(write_end(files, {.exit_code = 76, .rank = 1, .detail = "not finite\xff\n"}).ok());
  const auto end = read_end(files);
  ASSERT_TRUE(end.ok()) << end.status();
  EXPECT_EQ(end->exit_code, 76);
  EXPECT_EQ(end->rank, 1);
  EXPECT_THAT(end->detail, ::testing::StartsWith("not finite"));
  ASSERT_TRUE(write_end(files, {.signal = SIGKILL, .out_of_memory = true}).ok());
  EXPECT_FALSE(read_end(files)->rank);
  EXPECT_TRUE(read_end(files)->out_of_memory);
}

TEST(AttemptFiles, OnlyOneSupervisorGetsTheLock) {
  const testing::TempDir dir;
  const AttemptFiles files(dir.path());
  EXPECT_FALSE(FileLock::is_held(files.supervisor_lock()).value());
  auto first = FileLock::try_acquire(files.supervisor_lock());
  ASSERT_TRUE(first.ok() && first->has_value());
  EXPECT_TRUE(FileLock::is_held(files.supervisor_lock()).value());
  EXPECT_FALSE(FileLock::try_acquire(files.supervisor_lock())->has_value());
  first->reset();
  EXPECT_FALSE(FileLock::is_held(files.supervisor_lock()).value());
}

TEST(AttemptFiles, ATornRankRecordIsLeftOut) {
  const testing::TempDir dir;
  const AttemptFiles files(dir.path());
  ASSERT_TRUE(write_rank_exit(files, {1, {65, 0}, 5, "bad row"}).ok());
  std::ofstream(files.rank_exit(0)) << "{\"exit_code\":";
  const auto exits = read_rank_exits(files, 3);
  ASSERT_EQ(exits.size(), 1u);
  EXPECT_EQ(exits[0].rank, 1);
  EXPECT_EQ(exits[0].status.code, 65);
  EXPECT_EQ(exits[0].last_lines, "bad row");
}

TEST(FirstFailure, IsTheEarliestThatIsNoEcho) {
  EXPECT_FALSE(first_failure({}));
  EXPECT_FALSE(first_failure({{0, {0, 0}, 1, ""}, {1, {0, 0}, 2, ""}}));
  // Rank 0 saw its peer go before the peer's end was written down.
  EXPECT_EQ(first_failure({{0, {71, 0}, 1, ""}, {1, {0, SIGSEGV}, 9, ""}})->rank, 1);
  EXPECT_EQ(first_failure({{0, {0, SIGTERM}, 1, ""}, {1, {65, 0}, 2, ""}})->rank, 1);
  EXPECT_EQ(first_failure({{0, {76, 0}, 4, ""}, {1, {76, 0}, 3, ""}})->rank, 1);
  EXPECT_EQ(first_failure({{0, {71, 0}, 4, ""}, {1, {71, 0}, 3, ""}})->rank, 1);
}

TEST(AttemptFiles, ASupervisorOfAnotherBootIsNobody) {
  const testing::TempDir dir;
  const AttemptFiles files(dir.path());
  const auto self = find_process(::getpid());
  ASSERT_TRUE(self);
  ASSERT_TRUE(write_supervisor(files, *self).ok());
  const auto read = read_supervisor(files);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_TRUE(is_alive(*read));

  // The same pid and start time, as a reboot may bring them about.
  std::string text = *read_file(files.supervisor());
  text.replace(text.find(*boot_id()), 36, "0e0c1a6e-0000-4000-8000-000000000000");
  ASSERT_TRUE(write_file_atomically(files.supervisor(), text).ok());
  EXPECT_EQ(read_supervisor(files).status().code(), StatusCode::kNotFound);
}

TEST(AttemptFiles, TheMpiFolderHasAPlaceWithoutATemporaryFolder) {
  const char* before = std::getenv("TMPDIR");
  const std::string kept = before == nullptr ? "" : before;
  ::setenv("TMPDIR", "/no/such/folder", 1);
  const auto folder = AttemptFiles("/a").mpi_session_dir();
  before == nullptr ? ::unsetenv("TMPDIR") : ::setenv("TMPDIR", kept.c_str(), 1);
  EXPECT_EQ(folder.parent_path(), "/tmp");
}

TEST(KilledForMemory, TakesASigkillWithinMomentsOfACount) {
  constexpr int64_t kSecond = 1'000'000'000;
  const RankExit killed{0, {0, SIGKILL}, 100 * kSecond, ""};
  EXPECT_TRUE(killed_for_memory(killed, {100 * kSecond}));
  EXPECT_TRUE(killed_for_memory(killed, {5, 100 * kSecond + kSecond / 2}));  // seen a little late
  EXPECT_TRUE(killed_for_memory(killed, {98 * kSecond}));                    // died slowly
  EXPECT_FALSE(killed_for_memory(killed, {}));
  // Others of the same control group, at another time.
  EXPECT_FALSE(killed_for_memory(killed, {90 * kSecond, 102 * kSecond}));
  EXPECT_FALSE(killed_for_memory({0, {0, SIGTERM}, 100 * kSecond, ""}, {100 * kSecond}));
  EXPECT_FALSE(killed_for_memory({0, {137, 0}, 100 * kSecond, ""}, {100 * kSecond}));
}

TEST(TailOf, BeginsWithALine) {
  const testing::TempDir dir;
  std::ofstream(dir / "log") << "one\ntwo\nthree\n";
  EXPECT_EQ(tail_of(dir / "log", 100)->text, "one\ntwo\nthree\n");
  EXPECT_EQ(tail_of(dir / "log", 8)->text, "three\n");
  EXPECT_EQ(tail_of(dir / "log", 6)->text, "three\n");
  EXPECT_EQ(tail_of(dir / "log", 4)->text, "ree\n");  // no line begins there
  EXPECT_EQ(tail_of(dir / "none", 8)->text, "");
  EXPECT_FALSE(tail_of(dir / "log", 14)->truncated);
  EXPECT_TRUE(tail_of(dir / "log", 13)->truncated);
}

TEST(TailOf, ReadsNoMoreThanTheTail) {
  const testing::TempDir dir;
  std::ofstream(dir / "log") << "begin\n";
  std::error_code error;
  std::filesystem::resize_file(dir / "log", uint64_t{1} << 40,
                               error);  // sparse; no memory holds it
  if (error) GTEST_SKIP() << "no file of 1 TiB here: " << error.message();
  ASSERT_TRUE(append_to_file(dir / "log", "\nend\n").ok());
  EXPECT_EQ(tail_of(dir / "log", 100)->text, "end\n");
}

}  // namespace
}  // namespace emoe::launcher
