#include "base/file_lock.h"

#include <gtest/gtest.h>

#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

TEST(FileLock, ExcludesOthersUntilItGoes) {
  const testing::TempDir dir;
  const auto file = dir / "lock";
  EXPECT_FALSE(FileLock::is_held(file).value());
  {
    const auto first = FileLock::try_acquire(file);
    ASSERT_TRUE(first.ok() && first->has_value()) << first.status();
    EXPECT_TRUE(FileLock::is_held(file).value());
    const auto second = FileLock::try_acquire(file);
    ASSERT_TRUE(second.ok()) << second.status();
    EXPECT_FALSE(second->has_value());
  }
  EXPECT_FALSE(FileLock::is_held(file).value());
  EXPECT_TRUE(FileLock::acquire(file).ok());
}

TEST(FileLock, AFolderThatIsNotThereIsNamed) {
  const testing::TempDir dir;
  const auto lock = FileLock::acquire(dir / "no" / "lock");
  EXPECT_EQ(lock.status().code(), StatusCode::kNotFound);
  EXPECT_NE(std::string(lock.status().message()).find("no/lock"), std::string::npos);
}

}  // namespace
}  // namespace emoe
