#include "cli/table.h"

#include <sstream>

#include <gtest/gtest.h>

#include "cli/format.h"

namespace emoe::cli {
namespace {

Table jobs() {
  Table table({{"ID"}, {"NAME", false, true}, {"STEP", true}});
  table.add({"job-1", "a-rather-long-name-of-a-job", "7"});
  table.add({"job-22", "b", "1200"});
  return table;
}

TEST(Table, AlignsColumns) {
  EXPECT_EQ(jobs().render(0),
            "ID      NAME                         STEP\n"
            "job-1   a-rather-long-name-of-a-job     7\n"
            "job-22  b                            1200\n");
}

TEST(Table, ShortensTheElasticColumnFirst) {
  EXPECT_EQ(jobs().render(30),
            "ID      NAME              STEP\n"
            "job-1   a-rather…f-a-job     7\n"
            "job-22  b                 1200\n");
}

TEST(Table, NeverWraps) {
  for (int width = 1; width < 60; ++width) {
    std::istringstream lines(jobs().render(width));
    for (std::string line; std::getline(lines, line);) EXPECT_LE(display_width(line), width);
  }
}

// What went wrong, and where something lies, can be read and copied on any terminal.
TEST(Table, AWholeColumnIsNeverCut) {
  Table table({{"N", true}, {.title = "MESSAGE", .whole = true}});
  table.add({"1", "rank 1 on host n2: killed by signal 9"});
  table.add({"2", "/a/path/that/is/longer/than/the/terminal"});
  EXPECT_EQ(table.render(24),
            "N  MESSAGE\n"
            "1  rank 1 on host n2:\n"
            "   killed by signal 9\n"
            "2  /a/path/that/is/longer/than/the/terminal\n");
  EXPECT_EQ(table.render(0),
            "N  MESSAGE\n"
            "1  rank 1 on host n2: killed by signal 9\n"
            "2  /a/path/that/is/longer/than/the/terminal\n");
}

TEST(Table, OptionalColumnsWithoutContentAreLeftOut) {
  Table table({{"A"}, {.title = "B", .optional = true}, {.title = "C", .optional = true}});
  table.add({"1", "-", "-"});
  table.add({"2", "x", "-"});
  EXPECT_EQ(table.render(0), "A  B\n1  -\n2  x\n");
}

TEST(Table, CellsStayOnTheirLine) {
  Table table({{"A"}});
  table.add({"x\ny"});
  EXPECT_EQ(table.render(0), "A\nx y\n");
}

TEST(KeyValues, AlignsAndSkipsEmptyValues) {
  KeyValues values;
  values.add("id", "1");
  values.add("message", "");
  values.add("output", "/a/long/path");
  EXPECT_EQ(values.render(0), "id:      1\noutput:  /a/long/path\n");
  EXPECT_EQ(values.render(16), "id:      1\noutput:  /a/long/path\n");
  KeyValues failed;
  failed.add("message", "rank 1: killed by signal 9");
  EXPECT_EQ(failed.render(26), "message:  rank 1: killed\n          by signal 9\n");
}

}  // namespace
}  // namespace emoe::cli
