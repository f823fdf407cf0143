#include "base/process.h"

#include <algorithm>
#include <csignal>

#include <gtest/gtest.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

TEST(Process, ExitCodeOutputAndEnvironment) {
  testing::TempDir dir;
  const auto child = spawn({.argv = {"sh", "-c", "echo $EMOE_X; exit 3"},
                            .set_env = {{"EMOE_X", "hello"}},
                            .output = dir / "out"});
  ASSERT_TRUE(child.ok()) << child.status();
  const auto exit = wait_child(child->pid);
  ASSERT_TRUE(exit.ok());
  EXPECT_EQ(exit->code, 3);
  EXPECT_EQ(exit->signal, 0);
  EXPECT_EQ(*read_file(dir / "out"), "hello\n");
}

TEST(Process, MissingProgramIsAnErrorNotAChild) {
  const auto child = spawn({.argv = {"/no/such/program"}});
  EXPECT_EQ(child.status().code(), StatusCode::kNotFound);
}

TEST(Process, SignalAndIdentity) {
  const auto child = spawn({.argv = {"sleep", "60"}, .new_session = true});
  ASSERT_TRUE(child.ok());
  EXPECT_TRUE(is_alive(*child));
  EXPECT_FALSE(is_alive({child->pid, child->start_ticks + 1}));  // another process with that pid
  EXPECT_EQ(getsid(child->pid), child->pid);
  ::kill(child->pid, SIGKILL);
  EXPECT_EQ(wait_child(child->pid)->signal, SIGKILL);
  EXPECT_FALSE(is_alive(*child));
}

TEST(Process, FindsDescendants) {
  const auto child = spawn({.argv = {"sh", "-c", "sleep 60 & wait"}, .new_session = true});
  ASSERT_TRUE(child.ok());
  std::vector<ProcessId> below;
  for (int i = 0; i < 3000 && below.empty(); ++i) {
    ::usleep(10'000);
    const auto found = descendants(child->pid);
    ASSERT_TRUE(found.ok()) << found.status();
    below = *found;
  }
  EXPECT_EQ(below.size(), 1u);
  ::kill(-child->pid, SIGKILL);
  ASSERT_TRUE(wait_child(child->pid).ok());
}

TEST(Process, BlockedSignalsAreBlockedInTheChildOnly) {
  testing::TempDir dir;
  const auto child =
      spawn({.argv = {"sh", "-c", "kill -TERM $$; echo lives; kill -USR1 $$; sleep 60"},
             .output = dir / "out",
             .blocked_signals = {SIGTERM}});
  ASSERT_TRUE(child.ok()) << child.status();
  EXPECT_EQ(wait_child(child->pid)->signal, SIGUSR1);
  EXPECT_EQ(*read_file(dir / "out"), "lives\n");
}

TEST(Process, WithoutDescriptorsNobodySeemsGone) {
  const auto before = living_processes();
  ASSERT_TRUE(before.ok()) << before.status();
  EXPECT_TRUE(std::any_of(before->begin(), before->end(),
                          [](const ProcessId& process) { return process.pid == ::getpid(); }));
  rlimit limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &limit), 0);
  const rlimit none{3, limit.rlim_max};  // the standard streams and nothing more
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto all = living_processes();
  const auto below = descendants(1);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_FALSE(all.ok());
  EXPECT_FALSE(below.ok());
}

TEST(Process, CoresOfTheAffinityMaskCount) {
  cpu_set_t before;
  ASSERT_EQ(::sched_getaffinity(0, sizeof before, &before), 0);
  EXPECT_GE(usable_cores(), 1);
  EXPECT_LE(usable_cores(), CPU_COUNT(&before));
  int first = 0;
  while (!CPU_ISSET(first, &before)) ++first;
  cpu_set_t one;
  CPU_ZERO(&one);
  CPU_SET(first, &one);
  ASSERT_EQ(::sched_setaffinity(0, sizeof one, &one), 0);
  EXPECT_EQ(usable_cores(), 1);
  ASSERT_EQ(::sched_setaffinity(0, sizeof before, &before), 0);
}

// As the kernel shows them: the own group's quota and those of the groups around it, in both versions.
TEST(Process, CpuQuotasOfAllGroupsAroundCount) {
  if (usable_cores() < 2) GTEST_SKIP() << "needs two usable cores";
  testing::TempDir dir;
  const ControlGroups groups{dir / "mount", dir / "own"};
  const auto write = [&](const std::string& file, const std::string& text) {
    ASSERT_TRUE(emoe::create_directories((dir / file).parent_path()).ok());
    ASSERT_TRUE(write_file_atomically(dir / file, text).ok());
  };
  EXPECT_GE(usable_cores(groups), 2) << "no control groups at all";
  write("own", "0::/slice/unit\n");
  write("mount/cpu.max", "max 100000\n");
  write("mount/slice/unit/cpu.max", "250000 100000\n");
  EXPECT_GE(usable_cores(groups), 2);
  write("mount/slice/cpu.max", "50000 100000\n");
  EXPECT_EQ(usable_cores(groups), 1);
  write("own", "3:cpuset:/a\n5:cpu,cpuacct:/a/b\n");
  EXPECT_GE(usable_cores(groups), 2);
  write("mount/cpu/a/b/cpu.cfs_quota_us", "-1\n");
  write("mount/cpu/a/b/cpu.cfs_period_us", "100000\n");
  write("mount/cpu/cpu.cfs_quota_us", "90000\n");  // a container sees its own group as the root
  write("mount/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(usable_cores(groups), 1);
}

TEST(Process, ThreadsOfAVariable) {
  constexpr char kName[] = "EMOE_TEST_THREADS";
  ::unsetenv(kName);
  EXPECT_EQ(threads_of_variable(kName).value(), 0);
  for (const auto& [text, threads] : {std::pair{"", 0}, std::pair{"3", 3}, std::pair{"4,2", 4}}) {
    ::setenv(kName, text, 1);
    EXPECT_EQ(threads_of_variable(kName).value(), threads) << text;
  }
  for (const char* text : {"many", "0", "-2", ",3", "2x"}) {
    ::setenv(kName, text, 1);
    EXPECT_EQ(std::string(threads_of_variable(kName).status().message()),
              std::string(kName) + "=" + text + ": not a number of threads");
  }
  ::unsetenv(kName);
}

TEST(Process, TheBootHasOneName) {
  const auto id = boot_id();
  ASSERT_TRUE(id.ok()) << id.status();
  EXPECT_EQ(id->size(), 36u);  // a UUID
  EXPECT_EQ(*id, *boot_id());
}

TEST(ReachableAddress, HasAHostInPlaceOfAWildcard) {
  EXPECT_EQ(reachable_address("0.0.0.0:70", "n1"), "n1:70");
  EXPECT_EQ(reachable_address("[::]:70", "n1"), "n1:70");
  EXPECT_EQ(reachable_address("10.0.0.1:70", "n1"), "10.0.0.1:70");
  EXPECT_EQ(reachable_address("[::1]:70", "n1"), "[::1]:70");
}

}  // namespace
}  // namespace emoe
