#include "worker/run/json_list.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

bool is_string(const nlohmann::json& entry) {
  return entry.is_string();
}

TEST(JsonList, GivesTheEntriesOrSaysWhatIsWrong) {
  const emoe::testing::TempDir dir;
  const auto read = [&](const std::string& text) -> std::string {
    EXPECT_TRUE(write_file_atomically(dir / "x.json", text).ok());
    try {
      return std::to_string(read_json_list(dir / "x.json", "a list of words", is_string).size());
    } catch (const JobError& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      return error.what();
    }
  };
  EXPECT_EQ(read("[\"a\", \"b\"]"), "2");
  EXPECT_EQ(read("[]"), "0");
  for (const auto& [text, part] : std::map<std::string, std::string>{
           {"[\"a\", 7]", "x.json: entry 1 is 7; wanted is a list of words"},
           {"{}", "x.json: is not a list; wanted is a list of words"},
           {"[\"a\"", "x.json: not JSON"},
           {"[\"\xff\"]", "x.json: not JSON"}}) {
    EXPECT_NE(read(text).find(part), std::string::npos) << read(text);
  }
  EXPECT_THROW((void)read_json_list(dir / "none.json", "a list", is_string), JobError);
}

}  // namespace
}  // namespace emoe::worker
