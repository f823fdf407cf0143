#include "base/memory_quantity.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(MemoryQuantity, AWholeNumberAndASuffixOfBytes) {
  const auto some = parse_memory_quantity("1500Mi");
  ASSERT_TRUE(some);
  EXPECT_EQ(some->number, 1500);
  EXPECT_EQ(some->suffix, "Mi");
  EXPECT_EQ(parse_memory_quantity("17")->suffix, "");
  for (const char* text : {"", "Gi", "1.5Gi", "8 GB", "8GB", "-1Gi", "1000m", "1234567890123"}) {
    EXPECT_FALSE(parse_memory_quantity(text)) << text;
  }
}

}  // namespace
}  // namespace emoe
