#include "worker/model/swiglu.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

namespace emoe::worker {
namespace {

// Odd sizes, so that vectorised kernels meet their remainders; large values, so that SiLU
// saturates.
struct Case {
  at::Tensor gate = (at::randn({7, 39}) * 4).set_requires_grad(true);
  at::Tensor up = at::randn({7, 39}).set_requires_grad(true);
  at::Tensor mask = at::rand({7, 3}) > 0.4;
  at::Tensor d_out = at::randn({7, 39});

  [[nodiscard]] at::Tensor plain() const {
    return at::silu(gate) * up * mask.repeat_interleave(13, 1);
  }
};

TEST(MaskedSwiglu, EqualsThePlainExpressionForwardAndBackward) {
  Case c;
  c.plain().backward(c.d_out);
  const at::Tensor d_gate = c.gate.grad().clone();
  const at::Tensor d_up = c.up.grad().clone();
  c.gate.mutable_grad() = at::Tensor();
  c.up.mutable_grad() = at::Tensor();
  const at::Tensor out = masked_swiglu(c.gate, c.up, c.mask);
  EXPECT_TRUE(at::allclose(out, c.plain(), 1e-6, 1e-6));
  out.backward(c.d_out);
  EXPECT_TRUE(at::allclose(c.gate.grad(), d_gate, 1e-5, 1e-6));
  EXPECT_TRUE(at::allclose(c.up.grad(), d_up, 1e-5, 1e-6));
}

TEST(MaskedSwiglu, FullMaskIsDenseBitForBit) {
  for (const auto dtype : {at::kFloat, at::kBFloat16}) {
    Case c;
    const at::Tensor gate = c.gate.detach().to(dtype).set_requires_grad(true);
    const at::Tensor up = c.up.detach().to(dtype).set_requires_grad(true);
    const at::Tensor all = at::ones({7, 3}, at::kBool);
    const at::Tensor dense = masked_swiglu(gate, up, at::Tensor());
    const at::Tensor masked = masked_swiglu(gate, up, all);
    EXPECT_TRUE(at::equal(dense, masked));
    dense.backward(c.d_out.to(dtype));
    const at::Tensor d_gate = gate.grad().clone();
    gate.mutable_grad() = at::Tensor();
    masked.backward(c.d_out.to(dtype));
    EXPECT_TRUE(at::equal(gate.grad(), d_gate));
  }
}

TEST(MaskedSwiglu, MaskedChannelsAreExactlyZero) {
  Case c;
  const at::Tensor out = masked_swiglu(c.gate, c.up, c.mask);
  out.backward(c.d_out);
  const at::Tensor off = c.mask.repeat_interleave(13, 1).logical_not();
  EXPECT_FALSE(out.masked_select(off).any().item<bool>());
  EXPECT_FALSE(c.gate.grad().masked_select(off).any().item<bool>());
  EXPECT_FALSE(c.up.grad().masked_select(off).any().item<bool>());
}

TEST(MaskedSwiglu, HalfPrecisionRoundsTheFp32Result) {
  Case c;
  const at::Tensor gate = c.gate.detach().to(at::kBFloat16);
  const at::Tensor up = c.up.detach().to(at::kBFloat16);
  const at::Tensor exact = masked_swiglu(gate.to(at::kFloat), up.to(at::kFloat), c.mask);
  const at::Tensor rounded = masked_swiglu(gate, up, c.mask).to(at::kFloat);
  EXPECT_TRUE(at::allclose(rounded, exact, 1e-2, 1e-4));
}

}  // namespace
}  // namespace emoe::worker
