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
  EXPECT_EQ(values.render(16), "id:      1\noutput:  /a/…ath\n");
}

}  // namespace
}  // namespace emoe::cli
