#include "plan/peak_rates.h"

#include <gtest/gtest.h>

namespace emoe {
namespace {

TEST(PeakRates, AreThoseOfTheNameThatTheDriverHas) {
  EXPECT_EQ(peak_flops("NVIDIA H200", 2), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 80GB HBM3", 2), 989e12);
  EXPECT_EQ(peak_flops("NVIDIA H100 PCIe", 2), 756e12);
  EXPECT_EQ(peak_flops("NVIDIA A100-SXM4-40GB", 2), 312e12);
  EXPECT_EQ(peak_flops("NVIDIA A100-SXM4-40GB", 4), 19.5e12);
  EXPECT_EQ(peak_flops("NVIDIA L40S", 2), 362e12);
  EXPECT_EQ(peak_flops("NVIDIA L4", 2), 121e12);
}

TEST(PeakRates, AreNotGuessed) {
  EXPECT_EQ(peak_flops("NVIDIA H2000", 2), 0.0);
  EXPECT_EQ(peak_flops("NVIDIA H200 MIG 1g.18gb", 2), 0.0);
  EXPECT_EQ(peak_flops("Tesla V100-SXM2-16GB", 2), 0.0) << "it does not multiply bf16";
  EXPECT_EQ(peak_flops("Tesla V100-SXM2-16GB", 4), 15.7e12);
  EXPECT_EQ(peak_flops("", 2), 0.0);
}

}  // namespace
}  // namespace emoe
