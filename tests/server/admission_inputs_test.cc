// Whatever a client sends is let in or refused, never an end of the coordinator: the seeds of the fuzz
// target, each with every key set to what does not belong there.
#include <gtest/gtest.h>

#include "base/file.h"
#include "config/schema.h"
#include "tests/fuzz/admission_input.h"
#include "tests/support/temp_dir.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

class AdmissionInputsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    testing::write_admission_files(dir_.path());
    for (const auto& entry : fs::directory_iterator(seeds())) {
      texts_[entry.path().filename().string()] = read_file(entry.path()).value();
    }
    ASSERT_GE(texts_.size(), 10u);
  }
  static fs::path seeds() {
    return fs::path(std::getenv("EMOE_SOURCE_DIR")) / "tests" / "fuzz" / "corpus" / "admission";
  }
  testing::TempDir dir_;
  std::map<std::string, std::string> texts_;
};

TEST_F(AdmissionInputsTest, SeedsAreLetInAsTheirNamesSay) {
  for (const auto& [name, text] : texts_) {
    const bool wrong = name == "other-task" || name == "no-task" || name == "short-text";
    EXPECT_EQ(testing::admit_input(dir_.path(), text), !wrong) << name;
  }
}

TEST_F(AdmissionInputsTest, EveryKeyMayBeWrong) {
  const std::vector<std::string> values{"-1", "0", "1", "2147483647", "lama2", "\"\"", "null"};
  int refused = 0;
  for (const char* name : {"train", "evaluate", "start"}) {
    for (const config::FieldRule& rule : config::job_schema()) {
      for (const std::string& value : values) {
        if (!testing::admit_input(dir_.path(), texts_.at(name), {rule.key + "=" + value}))
          ++refused;
      }
    }
  }
  EXPECT_GT(refused, 500);
}

TEST_F(AdmissionInputsTest, EveryTaskMayHaveTheKeysOfAnother) {
  for (const auto& [name, text] : texts_) {
    for (const char* task :
         {"train", "evaluate", "merge", "convert", "preflight", "analyze", "x"}) {
      (void)testing::admit_input(dir_.path(), text, {std::string("task=") + task});
      (void)testing::admit_input(dir_.path(), text,
                                 {std::string("task=") + task, "data.template=lama2"});
    }
  }
}

}  // namespace
}  // namespace emoe::server
