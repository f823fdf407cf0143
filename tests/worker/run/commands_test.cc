#include "worker/run/commands.h"

#include <map>

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/worker/run/tiny_job.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

TEST(TokenizeTexts, GivesIdsOrSaysWhatIsWrongWithTheList) {
  const testing::TinyJob job;
  // The lists of ids, or the message of the error.
  const auto tokenize = [&](const std::string& text) -> std::string {
    EXPECT_TRUE(write_file_atomically(job / "x.json", text).ok());
    try {
      tokenize_texts({.model = job.model(), .texts = job / "x.json", .out = job / "ids.json"});
      return read_file(job / "ids.json").value();
    } catch (const JobError& error) {
      EXPECT_EQ(error.code(), ExitCode::data);
      return error.what();
    }
  };
  EXPECT_TRUE(tokenize("[\"a\", \"b\"]").starts_with("[[1,")) << "the BOS comes first";
  EXPECT_EQ(tokenize("[]"), "[]\n");
  for (const auto& [text, part] : std::map<std::string, std::string>{
           {"[\"a\", 7]", "x.json: entry 2 is 7; wanted is a JSON list of strings"},
           {"{}", "x.json: is not a list; wanted is a JSON list of strings"},
           {"[\"a\"", "x.json: not JSON"},
           {"[\"\xff\"]", "x.json: not JSON"}}) {
    EXPECT_NE(tokenize(text).find(part), std::string::npos) << tokenize(text);
  }
  EXPECT_THROW(tokenize_texts({job.model(), job / "none.json", job / "ids.json"}), JobError);
}

}  // namespace
}  // namespace emoe::worker
