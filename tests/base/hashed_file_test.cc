#include "base/hashed_file.h"

#include <csignal>
#include <string>
#include <utility>

#include <gtest/gtest.h>
#include <sys/resource.h>

#include "base/file.h"
#include "base/sha256.h"
#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

constexpr size_t kBlock = HashedFileWriter::kBlock;
constexpr size_t kHeld = kBlock * HashedFileWriter::kBlocks;

std::string made_up(size_t size) {
  std::string bytes(size, '\0');
  uint32_t state = 7;
  for (char& byte : bytes) {
    state = state * 1664525 + 1013904223;
    byte = static_cast<char>(state >> 24);
  }
  return bytes;
}

// Writes in pieces of `piece` bytes, into `folder`, and reads back.
void expect_written(const std::filesystem::path& folder, const std::string& bytes, size_t piece) {
  const auto path = folder / "file";
  auto writer = HashedFileWriter::create(path, bytes.size());
  ASSERT_TRUE(writer.ok()) << writer.status();
  for (size_t at = 0; at < bytes.size(); at += piece) {
    ASSERT_TRUE(writer->write(std::string_view(bytes).substr(at, piece)).ok());
  }
  const Status closed = writer->close();
  ASSERT_TRUE(closed.ok()) << closed;
  EXPECT_EQ(writer->sha256(), sha256_hex(bytes));
  EXPECT_TRUE(*read_file(path) == bytes) << bytes.size() << " bytes by " << piece;
}

// Around the sizes of a block, of a page, and of all that is held.
TEST(HashedFile, holds_what_was_written_and_has_its_hash) {
  const testing::TempDir dir;
  for (const size_t size : {size_t{0}, size_t{1}, size_t{4096}, kBlock - 1, kBlock, kBlock + 1,
                            kBlock + 4096, 2 * kBlock + 4097, kHeld, kHeld + kBlock + 17}) {
    expect_written(dir.path(), made_up(size), 1 << 20);
  }
  const std::string bytes = made_up(3 * kBlock + 123);
  expect_written(dir.path(), bytes, 100'003);
  expect_written(dir.path(), bytes, bytes.size());
}

// tmpfs, where nothing goes past the page cache: or does, by now, as far as can be seen.
TEST(HashedFile, file_systems_in_memory) {
  std::string name = "/dev/shm/emoe-hashed-XXXXXX";
  if (::mkdtemp(name.data()) == nullptr) GTEST_SKIP() << "no /dev/shm to write to";
  expect_written(name, made_up(2 * kBlock + 5), 999'983);
  EXPECT_TRUE(remove_tree(name).ok());
}

// The caller's bytes are its own again at once.
TEST(HashedFile, bytes_are_copied) {
  const testing::TempDir dir;
  auto writer = HashedFileWriter::create(dir / "file", 2 * kBlock);
  ASSERT_TRUE(writer.ok());
  std::string bytes;
  std::string all;
  for (const char letter : {'a', 'b', 'c', 'd'}) {
    bytes.assign(kBlock / 2, letter);
    all += bytes;
    ASSERT_TRUE(writer->write(bytes).ok());
  }
  bytes.assign(kBlock / 2, 'x');
  ASSERT_TRUE(writer->close().ok());
  EXPECT_EQ(writer->sha256(), sha256_hex(all));
  EXPECT_TRUE(*read_file(dir / "file") == all);
}

TEST(HashedFile, says_where_other_than_the_promised_bytes_come) {
  const testing::TempDir dir;
  for (const size_t promised : {size_t{4}, kBlock, 3 * kBlock}) {
    auto writer = HashedFileWriter::create(dir / "file", promised);
    ASSERT_TRUE(writer.ok());
    ASSERT_TRUE(writer->write("hello").ok());
    const Status closed = writer->close();
    EXPECT_EQ(closed.code(), StatusCode::kInvalidArgument) << closed;
  }
}

TEST(HashedFile, can_be_given_up) {
  const testing::TempDir dir;
  const std::string bytes = made_up(kHeld + kBlock / 2);
  auto writer = HashedFileWriter::create(dir / "file", 2 * kHeld);
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->write(bytes).ok());
  auto other = HashedFileWriter::create(dir / "other", 5);
  ASSERT_TRUE(other.ok());
  *writer = std::move(*other);  // what was under way ends before
  ASSERT_TRUE(writer->write("hello").ok());
  ASSERT_TRUE(writer->close().ok());
}

TEST(HashedFile, a_folder_that_is_not_there) {
  const testing::TempDir dir;
  const auto writer = HashedFileWriter::create(dir / "none/file", 5);
  EXPECT_EQ(writer.status().code(), StatusCode::kNotFound);
  EXPECT_NE(writer.status().message().find("none/file"), std::string_view::npos);
}

// A limit on the size of files stands for a full disk.
class HashedFileLimit : public ::testing::Test {
 protected:
  HashedFileLimit() : handler_(std::signal(SIGXFSZ, SIG_IGN)) {
    EXPECT_EQ(::getrlimit(RLIMIT_FSIZE, &before_), 0);
  }
  ~HashedFileLimit() override {
    limit(before_.rlim_cur);
    std::signal(SIGXFSZ, handler_);
  }
  void limit(rlim_t bytes) {
    struct rlimit limited = before_;
    limited.rlim_cur = bytes;
    EXPECT_EQ(::setrlimit(RLIMIT_FSIZE, &limited), 0);
  }

 private:
  struct rlimit before_ {};
  void (*handler_)(int);
};

TEST_F(HashedFileLimit, a_disk_that_is_full_is_found_at_once) {
  const testing::TempDir dir;
  limit(kBlock);
  const auto writer = HashedFileWriter::create(dir / "file", 2 * kBlock);
  EXPECT_EQ(writer.status().code(), StatusCode::kResourceExhausted);
  const std::string message(writer.status().message());
  EXPECT_NE(message.find("room for 4194304 bytes"), std::string::npos) << message;
  EXPECT_NE(message.find("are free"), std::string::npos) << message;
}

// A block that does not fit is told of by a later write, or by close().
TEST_F(HashedFileLimit, a_disk_that_fills_meanwhile) {
  const testing::TempDir dir;
  const std::string bytes = made_up(4 * kHeld);
  for (const size_t given : {bytes.size(), 2 * kBlock}) {
    auto writer = HashedFileWriter::create(dir / "file", given);
    ASSERT_TRUE(writer.ok());
    limit(kBlock + kBlock / 2);
    const Status written = writer->write(std::string_view(bytes).substr(0, given));
    if (given > kHeld) {
      EXPECT_EQ(written.code(), StatusCode::kResourceExhausted) << written;
    }
    const Status closed = writer->close();
    EXPECT_EQ(closed.code(), StatusCode::kResourceExhausted) << closed;
    EXPECT_NE(closed.message().find("cannot write"), std::string_view::npos) << closed;
    limit(RLIM_INFINITY);
  }
}

}  // namespace
}  // namespace emoe
