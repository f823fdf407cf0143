#include "server/security/reread_files.h"

#include <fstream>
#include <string>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

class RereadFilesTest : public ::testing::Test {
 protected:
  void write(const std::string& text) { std::ofstream(file_) << text; }
  RereadFiles<std::string> files() {
    return RereadFiles<std::string>(
        {file_},
        {.read = [this]() -> Result<std::shared_ptr<const std::string>> {
           EMOE_ASSIGN_OR_RETURN(std::string text, read_file(file_));
           return std::make_shared<const std::string>(std::move(text));
         },
         .check = [](const std::string& text) -> Status {
           if (text != "bad") return ok_status();
           return absl::InvalidArgumentError("bad");
         },
         .taken = [this](const std::string& text) { told_ += "+" + text; },
         .refused = [this](const Status& why) { told_ += "-" + std::string(why.message()); }});
  }
  const testing::TempDir dir_;
  const std::filesystem::path file_ = dir_ / "content";
  std::string told_;
};

TEST_F(RereadFilesTest, KeepsTheOldContentUntilTheNewOneIsGood) {
  write("one");
  auto content = files();
  ASSERT_TRUE(content.open().ok());
  EXPECT_EQ(*content.current(), "one");
  EXPECT_EQ(told_, "") << "nothing has changed";
  write("bad");
  EXPECT_EQ(*content.current(), "one");
  EXPECT_EQ(*content.current(), "one");
  EXPECT_EQ(told_, "-bad") << "once";
  write("two!");
  EXPECT_EQ(*content.current(), "two!");
  EXPECT_EQ(told_, "-bad+two!");
  std::filesystem::remove(file_);
  EXPECT_EQ(*content.current(), "two!");
  EXPECT_EQ(told_.find("-bad+two!-"), 0U) << told_;
}

TEST_F(RereadFilesTest, OpenFailsWhereThereIsNothing) {
  auto content = files();
  EXPECT_FALSE(content.open().ok());
}

}  // namespace
}  // namespace emoe::server
