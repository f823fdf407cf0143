#include "base/machine.h"

#include <fstream>

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

TEST(Machine, KnowsThisProcessAndItsProcessor) {
  EXPECT_GT(process_memory("VmRSS"), 0);
  EXPECT_GE(process_memory("VmHWM"), process_memory("VmRSS"));
  EXPECT_EQ(process_memory("VmNothing"), 0);
  EXPECT_FALSE(processor_name().empty());
  EXPECT_FALSE(processor_has("no-such-flag"));
}

TEST(Machine, MemoryIsNoMoreThanTheControlGroupsAllow) {
  const testing::TempDir dir;
  const auto write = [&](const std::filesystem::path& path, const std::string& text) {
    std::filesystem::create_directories((dir / path).parent_path());
    std::ofstream(dir / path) << text;
  };
  write("own", "0::/a/b\n");
  const ControlGroups groups{.mount = dir / "groups", .own = dir / "own"};
  const int64_t all = usable_memory(groups);
  EXPECT_GT(all, 0);
  write("groups/a/b/memory.max", "max\n");
  EXPECT_EQ(usable_memory(groups), all);
  write("groups/a/memory.max", "1048576\n");
  EXPECT_EQ(usable_memory(groups), 1048576);
  // The older kind of groups.
  write("own", "5:cpu:/x\n4:memory:/c\n");
  write("groups/memory/c/memory.limit_in_bytes", "4096\n");
  EXPECT_EQ(usable_memory(groups), 4096);
}

}  // namespace
}  // namespace emoe
