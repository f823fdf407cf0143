#include "base/diagnostics.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(Diagnostics, EmptyIsOk) {
  EXPECT_TRUE(Diagnostics().to_status().ok());
}

TEST(Diagnostics, StatusCarriesEveryViolation) {
  Diagnostics diagnostics;
  diagnostics.add("job.yaml:3", "tuning", "unknown word \"lor\"");
  diagnostics.add("model.path", "no such folder");
  const Status status = with_context(diagnostics.to_status(), "job.yaml");
  EXPECT_EQ(status.code(), StatusCode::kInvalidArgument);
  const auto violations = violations_of(status);
  ASSERT_EQ(violations.size(), 2u);
  EXPECT_EQ(dropped_violations_of(status), 0u);
  EXPECT_EQ(violations[0].location, "job.yaml:3");
  EXPECT_EQ(violations[1].field, "model.path");
  EXPECT_EQ(to_string(violations[0]), "job.yaml:3: tuning: unknown word \"lor\"");
  EXPECT_EQ(to_string(violations[1]), "model.path: no such folder");
}

TEST(Diagnostics, CountsBeyondTheLimit) {
  Diagnostics diagnostics(2);
  for (int i = 0; i < 5; ++i) diagnostics.add("field", "bad");
  EXPECT_EQ(diagnostics.size(), 5u);
  EXPECT_EQ(violations_of(diagnostics.to_status()).size(), 2u);
  EXPECT_EQ(dropped_violations_of(diagnostics.to_status()), 3u);
  EXPECT_NE(diagnostics.to_status().message().find("and 3 more"), std::string::npos);
  EXPECT_EQ(dropped_violations_of(ok_status()), 0u);
}

// What is quoted from a bad file may hold the very bytes that separate violations.
TEST(Diagnostics, ControlCharactersOfTheInputDoNoHarm) {
  Diagnostics diagnostics;
  diagnostics.add("job.yaml:1", "na\x1eme\x1f", "unknown\nkey");
  const auto violations = violations_of(diagnostics.to_status());
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(to_string(violations[0]), "job.yaml:1: na me : unknown key");
}

TEST(Diagnostics, WarningsAreNoProblemUntilTheyAreForbidden) {
  Diagnostics diagnostics;
  const Warning cut{"ROWS_CUT", "2 of 9 rows cut", "data.train", 2, "a.json:4"};
  diagnostics.warn(cut);
  diagnostics.warn({"ROWS_CUT", "1 of 3 rows\ncut", "data.eval", 1, "\xff:1"});
  EXPECT_TRUE(diagnostics.empty());
  EXPECT_TRUE(diagnostics.to_status().ok());
  ASSERT_EQ(diagnostics.warnings().size(), 2u);
  EXPECT_EQ(to_string(diagnostics.warnings()[0]),
            "2 of 9 rows cut; see data.train, first a.json:4");
  EXPECT_EQ(diagnostics.warnings()[1].text, "1 of 3 rows cut");
  EXPECT_EQ(diagnostics.warnings()[1].first, "\uFFFD:1");
  diagnostics.forbid_warnings();
  ASSERT_EQ(diagnostics.violations().size(), 2u);
  EXPECT_EQ(to_string(diagnostics.violations()[0]),
            "data.train: 2 of 9 rows cut, first a.json:4 (ROWS_CUT, an error with data.strict)");
}

TEST(Diagnostics, WhatTheJobChoseAndWhatItCannotMendPassesStrict) {
  Diagnostics diagnostics;
  diagnostics.warn({.code = warning::kBaseRounded, .text = "9 of 30 tensors …"});
  diagnostics.warn({.code = warning::kCheckpointFailed, .text = "disk full"});
  diagnostics.forbid_warnings();
  EXPECT_TRUE(diagnostics.empty());
  diagnostics.warn({.code = warning::kGpuUnused, .text = "no CUDA", .where = "resources.device"});
  diagnostics.forbid_warnings();
  EXPECT_EQ(diagnostics.size(), 1u);
}

TEST(Diagnostics, AWarningToldAgainTakesThePlaceOfTheFirst) {
  Diagnostics diagnostics;
  diagnostics.warn({"A", "1 row", "here", 1, ""});
  diagnostics.warn({"B", "x", "here", 1, ""});
  diagnostics.warn({"A", "2 rows", "here", 2, ""});
  diagnostics.warn({"A", "x", "there", 1, ""});
  ASSERT_EQ(diagnostics.warnings().size(), 3u);
  EXPECT_EQ(diagnostics.warnings()[0].count, 2);
}

}  // namespace
}  // namespace emoe
