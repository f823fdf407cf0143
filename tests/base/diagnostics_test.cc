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

}  // namespace
}  // namespace emoe
