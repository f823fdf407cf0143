#include "base/status.h"

#include <cerrno>

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(Status, ContextReadsOutermostFirst) {
  const Status status = with_context(absl::NotFoundError("manifest.json"), "checkpoint step_1");
  EXPECT_EQ(status.code(), StatusCode::kNotFound);
  EXPECT_EQ(status.message(), "checkpoint step_1: manifest.json");
  EXPECT_TRUE(with_context(ok_status(), "anything").ok());
}

TEST(Status, FullDiskIsResourceExhausted) {
  EXPECT_EQ(errno_status(ENOSPC, "write").code(), StatusCode::kResourceExhausted);
}

Result<int> twice(Result<int> in) {
  EMOE_ASSIGN_OR_RETURN(const int value, std::move(in));
  return 2 * value;
}

TEST(Status, AssignOrReturn) {
  EXPECT_EQ(*twice(21), 42);
  EXPECT_EQ(twice(absl::DataLossError("x")).status().code(), StatusCode::kDataLoss);
}

}  // namespace
}  // namespace emoe
