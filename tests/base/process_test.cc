#include "base/process.h"

#include <csignal>

#include <gtest/gtest.h>
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
  EXPECT_EQ(processes_of_session(child->pid).size(), 1u);
  ::kill(child->pid, SIGKILL);
  EXPECT_EQ(wait_child(child->pid)->signal, SIGKILL);
  EXPECT_FALSE(is_alive(*child));
}

TEST(Process, FindsDescendants) {
  const auto child = spawn({.argv = {"sh", "-c", "sleep 60 & wait"}, .new_session = true});
  ASSERT_TRUE(child.ok());
  std::vector<ProcessId> below;
  for (int i = 0; i < 200 && below.empty(); ++i) {
    ::usleep(10'000);
    below = descendants(child->pid);
  }
  EXPECT_EQ(below.size(), 1u);
  ::kill(-child->pid, SIGKILL);
  ASSERT_TRUE(wait_child(child->pid).ok());
}

}  // namespace
}  // namespace emoe
