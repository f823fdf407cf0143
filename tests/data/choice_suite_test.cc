#include "data/choice_suite.h"

#include <gtest/gtest.h>

#include "base/file.h"
#include "tests/support/temp_dir.h"

namespace emoe::data {
namespace {

using emoe::testing::TempDir;
using Texts = std::vector<std::string>;

constexpr char kLine[] = "Which?,a,b,c,d,C\n";

class ChoiceSuiteTest : public ::testing::Test {
 protected:
  void SetUp() override {
    write("dev/birds_dev.csv", kLine);
    write("val/birds_val.csv", kLine);
    write("dev/big_fish_dev.csv", std::string(kLine) + "And?,1,2,3,4,A\n");
    write("val/big_fish_val.csv", kLine);
    options_ = {.folder = folder_ / ".", .split = "val", .shots = 5};
  }
  void write(const std::string& name, const std::string& text) {
    const auto file = folder_ / name;
    ASSERT_TRUE(emoe::create_directories(file.parent_path()).ok());
    ASSERT_TRUE(write_file_atomically(file, text).ok());
  }
  std::vector<ChoiceSubject> read() {
    Diagnostics diagnostics;
    auto subjects = read_suite(options_, diagnostics);
    problems_.clear();
    for (const Violation& violation : diagnostics.violations()) {
      std::string text = to_string(violation);
      for (size_t at; (at = text.find(folder_.path().string())) != std::string::npos;) {
        text.erase(at, folder_.path().string().size() + 1);
      }
      problems_.push_back(text);
    }
    return subjects;
  }

  TempDir folder_;
  SuiteOptions options_;
  Texts problems_;
};

TEST_F(ChoiceSuiteTest, ReadsSubjectsWithTheirShots) {
  write("val/birds_val.csv",
        "\xEF\xBB\xBF\"Say \"\"caw\"\", or:\r\nhow?\",\" "
        "a\",,\"c,c\",d,D\r\nIs \"it\" so?,1,2,3,4,A\r\n\r\nThird?,1,2,3,4,B");
  const auto subjects = read();
  ASSERT_EQ(problems_, Texts{});
  ASSERT_EQ(subjects.size(), 2u);
  EXPECT_EQ(subjects[0].name, "big_fish");
  EXPECT_EQ(subjects[0].shots.size(), 2u);
  const ChoiceSubject& birds = subjects[1];
  EXPECT_EQ(birds.shots.size(), 1u);
  ASSERT_EQ(birds.questions.size(), 3u);
  // Line ends inside quotes belong to the text, as Python's csv module has it.
  EXPECT_EQ(birds.questions[0].question, "Say \"caw\", or:\r\nhow?");
  EXPECT_EQ(birds.questions[0].choices, (std::array<std::string, 4>{" a", "", "c,c", "d"}));
  EXPECT_EQ(birds.questions[0].answer, 3);
  EXPECT_EQ(birds.questions[1].question, "Is \"it\" so?");
  EXPECT_EQ(birds.questions[2].row, 2);
  EXPECT_EQ(birds.questions[2].answer, 1);
}

TEST_F(ChoiceSuiteTest, TakesTheSubjectsAndAsMuchOfThemAsAskedFor) {
  write("val/birds_val.csv", "1?,a,b,c,d,A\n2?,a,b,c,d,B\n3?,a,b,c,d,C\n");
  options_.subjects = {"birds"};
  options_.limit = 2;
  options_.shots = 0;
  std::filesystem::remove_all(folder_ / "dev");  // not read without shots
  const auto subjects = read();
  ASSERT_EQ(problems_, Texts{});
  ASSERT_EQ(subjects.size(), 1u);
  EXPECT_EQ(subjects[0].questions.size(), 2u);
  EXPECT_TRUE(subjects[0].shots.empty());
  EXPECT_EQ(suite_files(options_).value(), (std::vector{options_.folder / "val/birds_val.csv"}));
}

TEST_F(ChoiceSuiteTest, SaysWhatIsMissing) {
  options_.subjects = {"birds", "algebra"};
  read();
  EXPECT_EQ(
      problems_,
      (Texts{"evaluate.path: the subject algebra is missing: there is no ./dev/algebra_dev.csv",
             "evaluate.path: the subject algebra is missing: there is no "
             "./val/algebra_val.csv"}));
  options_.subjects.clear();
  std::filesystem::copy(folder_ / "val/birds_val.csv", folder_ / "val/birds.csv");
  read();
  EXPECT_EQ(problems_, (Texts{"evaluate.path: the subject birds has two files, ./val/birds.csv and "
                              "birds_val.csv: remove one"}));
  std::filesystem::remove(folder_ / "val/birds.csv");
  std::filesystem::remove(folder_ / "dev/birds_dev.csv");
  read();
  EXPECT_EQ(problems_, (Texts{"evaluate.path: the subject birds is missing: there is no "
                              "./dev/birds_dev.csv"}));
  EXPECT_TRUE(absl::IsNotFound(suite_files(options_).status()));
  options_.split = "test";
  read();
  ASSERT_EQ(problems_.size(), 1u);
  EXPECT_NE(
      problems_[0].find("there are no CSV files in ./test: a suite has dev/ for the shots and "
                        "a folder for evaluate.split, test; . has dev/, val/"),
      std::string::npos)
      << problems_[0];
}

TEST_F(ChoiceSuiteTest, NamesTheLineOfEveryFault) {
  write("val/birds_val.csv",
        "1?,a,b,c,d,A\n2?,a,b,c,A\n\"3\n?\",a,b,c,d,E\n4?,a,b,c,d,\n5?,a,b,\xff,d,A\n6?,a,\"b,c,d,"
        "A\n");
  write("val/big_fish_val.csv", "\n\n");
  read();
  EXPECT_EQ(
      problems_,
      (Texts{"./val/big_fish_val.csv: evaluate.path: has no question",
             "./val/birds_val.csv:2: evaluate.path: has 5 fields, not 6: question, four "
             "choices, the letter of the right one",
             "./val/birds_val.csv:3: evaluate.path: the last field is \"E\", not the letter of "
             "the right choice: A, B, C or D",
             "./val/birds_val.csv:5: evaluate.path: the last field is \"\", not the letter of "
             "the right choice: A, B, C or D",
             "./val/birds_val.csv:6: evaluate.path: is not UTF-8 text",
             "./val/birds_val.csv:7: evaluate.path: opens a quote in its field 3 (line 7) that "
             "is never closed: the file ends inside it"}));
}

}  // namespace
}  // namespace emoe::data
