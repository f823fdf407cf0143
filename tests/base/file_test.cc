#include "base/file.h"

#include <csignal>
#include <filesystem>

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/support/temp_dir.h"

namespace emoe {
namespace {

TEST(File, AtomicWriteReplacesAndLeavesNoTemporary) {
  testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "a", "one").ok());
  ASSERT_TRUE(write_file_atomically(dir / "a", "two").ok());
  EXPECT_EQ(*read_file(dir / "a"), "two");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(File, MissingAndEmptyFiles) {
  testing::TempDir dir;
  EXPECT_EQ(MappedFile::open(dir / "none").status().code(), StatusCode::kNotFound);
  EXPECT_EQ(MappedFile::open(dir.path()).status().code(), StatusCode::kInvalidArgument);
  ASSERT_TRUE(write_file_atomically(dir / "empty", "").ok());
  EXPECT_TRUE(MappedFile::open(dir / "empty")->bytes().empty());
}

// Opening a FIFO waits for its other end, and a device never ends.
TEST(File, OnlyRegularFilesAreRead) {
  testing::TempDir dir;
  ASSERT_EQ(mkfifo((dir / "pipe").c_str(), 0600), 0);
  for (const std::filesystem::path& path : {dir / "pipe", std::filesystem::path("/dev/zero")}) {
    for (const Status& status : {read_file(path).status(), MappedFile::open(path).status(),
                                 FileReader::open(path).status()}) {
      EXPECT_EQ(status.code(), StatusCode::kInvalidArgument) << status;
      EXPECT_NE(status.message().find("is not a regular file"), std::string::npos) << status;
    }
  }
}

TEST(File, ReadsInPiecesAndUpToALimit) {
  testing::TempDir dir;
  const std::string content(600'000, 'x');
  ASSERT_TRUE(write_file_atomically(dir / "a", content).ok());
  EXPECT_EQ(*read_file(dir / "a"), content);
  EXPECT_EQ(*read_file(dir / "a", content.size()), content);
  EXPECT_EQ(read_file(dir / "a", content.size() - 1).status().code(), StatusCode::kInvalidArgument);
  auto reader = FileReader::open(dir / "a");
  ASSERT_TRUE(reader.ok());
  std::string piece(400'000, ' ');
  EXPECT_EQ(*reader->read(piece.data(), piece.size()), piece.size());
  ASSERT_EQ(truncate((dir / "a").c_str(), 500'000), 0);
  EXPECT_EQ(*reader->read(piece.data(), piece.size()), 100'000u);
  EXPECT_EQ(*reader->read(piece.data(), piece.size()), 0u);
}

// A file size limit stands in for a full disk: both stop a write in its middle.
TEST(File, FailedWriteKeepsTheOldContent) {
  testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "a", "old").ok());
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  const rlimit small{1024, before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const Status status = write_file_atomically(dir / "a", std::string(4096, 'x'));
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_FALSE(status.ok());
  EXPECT_EQ(*read_file(dir / "a"), "old");
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1);
}

TEST(File, FoldersAreMadeWithThoseAboveThem) {
  testing::TempDir dir;
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(emoe::create_directories(dir / "a/b/../c/").ok());
  EXPECT_TRUE(std::filesystem::is_directory(dir / "a/c"));
  const auto before = std::filesystem::current_path();
  std::filesystem::current_path(dir.path());
  EXPECT_TRUE(emoe::create_directories("relative/deep").ok());
  std::filesystem::current_path(before);
  EXPECT_TRUE(std::filesystem::is_directory(dir / "relative/deep"));
  ASSERT_TRUE(write_file_atomically(dir / "file", "x").ok());
  EXPECT_FALSE(emoe::create_directories(dir / "file/below").ok());
  EXPECT_TRUE(sync_file(dir / "file").ok());
  EXPECT_EQ(sync_file(dir / "none").code(), StatusCode::kNotFound);
}

TEST(File, APathIsMadeAbsoluteAndLeadsWhereItLed) {
  EXPECT_EQ(absolute_path("a/./b/", "/home"), "/home/a/b");
  EXPECT_EQ(absolute_path("../x//y/.", "/home/me"), "/home/me/../x/y");
  EXPECT_EQ(absolute_path("/x/", "/home"), "/x");
  EXPECT_EQ(absolute_path("/", "/home"), "/");
  testing::TempDir dir;  // link → deep/folder, so link/.. is deep
  ASSERT_TRUE(emoe::create_directories(dir / "deep/folder").ok());
  std::filesystem::create_directory_symlink(dir / "deep/folder", dir / "link");
  ASSERT_TRUE(emoe::create_directories(dir / "link/../made").ok());
  EXPECT_TRUE(std::filesystem::is_directory(dir / "deep/made"));
  EXPECT_TRUE(std::filesystem::exists(absolute_path("link/../made", dir.path())));
}

TEST(File, AppendAndWriterSizes) {
  testing::TempDir dir;
  ASSERT_TRUE(append_to_file(dir / "log", "a\n").ok());
  ASSERT_TRUE(append_to_file(dir / "log", "b\n").ok());
  EXPECT_EQ(*read_file(dir / "log"), "a\nb\n");
  auto writer = FileWriter::create(dir / "w");
  ASSERT_TRUE(writer.ok());
  ASSERT_TRUE(writer->write("hello").ok());
  EXPECT_EQ(writer->size(), 5u);
  EXPECT_TRUE(writer->close().ok());
}

TEST(WhyNotThere, SaysWhatAPathLeadsTo) {
  const testing::TempDir dir;
  ASSERT_TRUE(write_file_atomically(dir / "model", "x").ok());
  std::filesystem::create_symlink("../blobs/7", dir / "lost");
  std::filesystem::create_symlink("loop", dir / "loop");
  const auto message = [&](const std::string& path) {
    return std::string(FileReader::open(dir / path).status().message());
  };
  EXPECT_NE(message("lost/x").find("is a link to ../blobs/7, which is not there"),
            std::string::npos);
  EXPECT_NE(message("model/config.json").find("model is a file, not a folder"), std::string::npos);
  EXPECT_NE(message("~/rows.json").find("the ~ of a shell is not known here"), std::string::npos);
  EXPECT_NE(message("https://example.org/rows.json").find("that is an address"), std::string::npos);
  EXPECT_NE(message("loop").find("Too many levels of symbolic links"), std::string::npos);
  EXPECT_NE(message("none").find("No such file or directory"), std::string::npos);
}

}  // namespace
}  // namespace emoe
