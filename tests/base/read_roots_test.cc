#include "base/read_roots.h"

#include <filesystem>
#include <thread>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

namespace fs = std::filesystem;

class ReadRootsTest : public ::testing::Test {
 protected:
  ReadRootsTest() {
    for (const char* folder : {"data", "secret"}) {
      fs::create_directory(path(folder));
      EXPECT_TRUE(write_file_atomically(path(folder) / "file", folder).ok());
    }
  }
  [[nodiscard]] fs::path path(const std::string& name) const { return dir_.path() / name; }
  testing::TempDir dir_;
};

TEST_F(ReadRootsTest, AFileIsOpenedBelowTheRootsOnly) {
  const ReadScope scope({path("data")});
  EXPECT_EQ(read_file(path("data/file")).value(), "data");
  EXPECT_EQ(read_file(path("secret/file")).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(MappedFile::open(path("secret/file")).status().code(), StatusCode::kPermissionDenied);
  EXPECT_EQ(read_file(path("data/../secret/file")).status().code(), StatusCode::kPermissionDenied);
  EXPECT_TRUE(read_file("/proc/self/stat").ok()) << "what the program itself asks of the kernel";
}

// What was checked by its path is another file by the time that it is opened.
TEST_F(ReadRootsTest, ALinkThatIsPutInTheWayLeadsNowhere) {
  const ReadScope scope({path("data")});
  fs::create_directory(path("data/sub"));
  ASSERT_TRUE(write_file_atomically(path("data/sub/file"), "mine").ok());
  ASSERT_EQ(read_file(path("data/sub/file")).value(), "mine");
  fs::rename(path("data/sub"), path("data/aside"));
  fs::create_symlink(path("secret"), path("data/sub"));
  EXPECT_EQ(read_file(path("data/sub/file")).status().code(), StatusCode::kPermissionDenied);
  fs::remove(path("data/sub"));
  fs::create_symlink(path("data/aside"), path("data/sub"));
  EXPECT_EQ(read_file(path("data/sub/file")).value(), "mine") << "a link within the roots is none";
}

TEST_F(ReadRootsTest, AScopeIsItsThreadsAndEnds) {
  {
    const ReadScope scope({path("data")});
    std::jthread([&] { EXPECT_TRUE(read_file(path("secret/file")).ok()); }).join();
    const ReadScope inner({});  // it has no limits of its own, and takes none away
    EXPECT_FALSE(read_file(path("secret/file")).ok());
  }
  EXPECT_TRUE(read_file(path("secret/file")).ok());
  const ReadScope nothing({path("missing")});
  EXPECT_FALSE(read_file(path("data/file")).ok());
}

}  // namespace
}  // namespace emoe
