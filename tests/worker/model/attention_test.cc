// Attention and its gradients against the plain expression in double, of which autograd makes them.
#include "worker/model/attention.h"

#include <algorithm>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include "tests/worker/model/engine_fixture.h"
#include "worker/model/own_attention.h"
#include "worker/model/shared_tokens.h"

namespace emoe::worker {
namespace {

using Lengths = std::vector<int64_t>;

at::Tensor plain_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                           const Lengths& lengths, int64_t window = 0) {
  const int64_t tokens = q.size(0);
  at::Tensor visible = at::zeros({tokens, tokens}, at::kBool);
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    visible.narrow(0, begin, length).narrow(1, begin, length).fill_(true);
    begin += length;
  }
  visible = visible.tril();
  if (window > 0) visible = visible.triu(1 - window);
  const int64_t shared = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(shared, 1).transpose(0, 1);
  const at::Tensor values = v.repeat_interleave(shared, 1).transpose(0, 1);
  const at::Tensor scores = at::matmul(q.transpose(0, 1), keys.transpose(1, 2)) /
                            std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor p = scores.masked_fill(visible.logical_not(), -INFINITY).softmax(-1);
  return at::matmul(p, values).transpose(0, 1);
}

int64_t sum(const Lengths& lengths) {
  int64_t total = 0;
  for (const int64_t length : lengths) total += length;
  return total;
}

struct Heads {
  int64_t heads, key_heads, size;
};

// q, k, v and the gradient of the output.
std::vector<at::Tensor> random_inputs(const Heads& heads, const Lengths& lengths,
                                      at::ScalarType type) {
  const int64_t tokens = sum(lengths);
  std::vector<at::Tensor> inputs;
  for (const int64_t count : {heads.heads, heads.key_heads, heads.key_heads, heads.heads}) {
    inputs.push_back(at::randn({tokens, count, heads.size}).to(type));
  }
  return inputs;
}

// {o, dq, dk, dv}, in the dtype of the computation.
template <typename Attend>
std::vector<at::Tensor> outcome(const Attend& attend, const std::vector<at::Tensor>& inputs,
                                at::ScalarType type) {
  std::vector<at::Tensor> leaves;
  for (int i = 0; i < 3; ++i) {
    leaves.push_back(inputs[i].to(type, false, /*copy=*/true).set_requires_grad(true));
  }
  const at::Tensor o = attend(leaves[0], leaves[1], leaves[2]);
  auto result = torch::autograd::grad({o}, leaves, {inputs[3].to(type)});
  result.insert(result.begin(), o.detach());
  return result;
}

std::vector<at::Tensor> ours(const std::vector<at::Tensor>& inputs, const Lengths& lengths,
                             int64_t window = 0) {
  const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return segment_attention(q, k, v, lengths, window);
  };
  return outcome(attend, inputs, inputs[0].scalar_type());
}

std::vector<at::Tensor> exact(const std::vector<at::Tensor>& inputs, const Lengths& lengths,
                              int64_t window = 0) {
  const auto attend = [&](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
    return plain_attention(q, k, v, lengths, window);
  };
  return outcome(attend, inputs, at::kDouble);
}

constexpr Heads kHeads[] = {{4, 2, 6}, {3, 3, 24}, {2, 1, 64}, {4, 2, 80}, {2, 2, 128}};
const Lengths kLengths[] = {{1}, {8}, {4, 4}, {1, 5, 2}, {1, 1, 1}, {97, 1, 130}, {300}};

TEST(Attention, EqualsThePlainExpressionInDouble) {
  for (const Heads& heads : kHeads) {
    for (const Lengths& lengths : kLengths) {
      const auto inputs = random_inputs(heads, lengths, at::kFloat);
      const auto expected = exact(inputs, lengths);
      const auto got = ours(inputs, lengths);
      for (size_t i = 0; i < expected.size(); ++i) {
        // A single token's gradients of q and k are 0.
        const double scale = std::max(expected[i].abs().max().item<double>(), 1.0);
        EXPECT_LT(testing::max_difference(got[i], expected[i]), 4e-6 * scale)
            << "tensor " << i << ", heads of " << heads.size << ", " << sum(lengths) << " tokens";
      }
    }
  }
}

// By our own blocks, by the library (in double, as on a GPU), and token by token from a cache.
TEST(Attention, AWindowEqualsThePlainExpression) {
  const Heads heads{4, 2, 24};
  for (const int64_t window : {1, 2, 7, 64, 129, 300, 400}) {
    SCOPED_TRACE(window);
    for (const Lengths& lengths : {Lengths{300}, Lengths{97, 1, 130}, Lengths{5, 5}}) {
      const auto inputs = random_inputs(heads, lengths, at::kFloat);
      const auto expected = exact(inputs, lengths, window);
      const auto got = ours(inputs, lengths, window);
      std::vector<at::Tensor> wide;
      for (const at::Tensor& x : inputs) wide.push_back(x.to(at::kDouble));
      const auto library = ours(wide, lengths, window);
      for (size_t i = 0; i < expected.size(); ++i) {
        const double scale = std::max(expected[i].abs().max().item<double>(), 1.0);
        EXPECT_LT(testing::max_difference(got[i], expected[i]), 4e-6 * scale) << "tensor " << i;
        EXPECT_LT(testing::max_difference(library[i], expected[i]), 1e-12 * scale) << i;
      }
    }
    const auto inputs = random_inputs(heads, {20}, at::kFloat);
    const at::Tensor whole = exact(inputs, {20}, window)[0];
    const at::Tensor last = cached_attention(inputs[0].narrow(0, 17, 3), inputs[1].transpose(0, 1),
                                             inputs[2].transpose(0, 1), window);
    EXPECT_LT(testing::max_difference(last, whole.narrow(0, 17, 3)), 4e-6);
  }
}

// By the mean square of the distance from the exact result; by chance they differ by a few hundredths.
TEST(Attention, InHalvesIsAsExactAsLibTorchs) {
  for (const Heads& heads : {Heads{4, 4, 64}, Heads{2, 2, 24}}) {
    const Lengths lengths{384};
    const auto inputs = random_inputs(heads, lengths, at::kBFloat16);
    const auto expected = exact(inputs, lengths);
    const auto theirs = outcome(
        [](const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
          const auto batch = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
          return at::scaled_dot_product_attention(batch(q), batch(k), batch(v), std::nullopt, 0.0,
                                                  true)
              .squeeze(0)
              .transpose(0, 1);
        },
        inputs, at::kBFloat16);
    const auto got = ours(inputs, lengths);
    for (size_t i = 0; i < expected.size(); ++i) {
      const auto error = [&](const at::Tensor& x) {
        return (x.to(at::kDouble) - expected[i]).square().mean().sqrt().item<double>();
      };
      EXPECT_LE(error(got[i]), 1.1 * error(theirs[i])) << "tensor " << i;
    }
  }
}

// A segment's bits are the same alone and among others, on one thread and on several.
TEST(Attention, BitsDependOnNothingElse) {
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    const Lengths lengths{120, 1, 300, 33};
    const auto inputs = random_inputs({4, 2, 64}, lengths, type);
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const auto alone = ours(inputs, lengths);
    at::set_num_threads(3);
    const auto shared = ours(inputs, lengths);
    at::set_num_threads(threads);
    std::vector<at::Tensor> middle;
    for (const auto& x : inputs) middle.push_back(x.narrow(0, 121, 300));
    const auto by_itself = ours(middle, {300});
    for (size_t i = 0; i < alone.size(); ++i) {
      EXPECT_TRUE(at::equal(alone[i], shared[i])) << "tensor " << i;
      EXPECT_TRUE(at::equal(alone[i].narrow(0, 121, 300), by_itself[i])) << "tensor " << i;
    }
  }
}

// Rows that share their beginnings, with ranges of the segments on several threads and without.
TEST(Attention, OfSharedTokensIsThatOfWholeRows) {
  PackedBatch batch;
  batch.segment_starts = {0};
  std::vector<int64_t> before;
  // {tokens shared with the row before, own}
  for (const auto& [shared, own] : std::vector<std::pair<int64_t, int64_t>>{
           {0, 150}, {149, 2}, {149, 1}, {100, 300}, {399, 1}, {0, 5}, {3, 97}, {99, 3}}) {
    std::vector<int64_t> row(before.begin(), before.begin() + shared);
    for (int64_t i = 0; i < own; ++i) row.push_back(batch.num_tokens()), batch.ids.push_back(0);
    batch.row_tokens.insert(batch.row_tokens.end(), row.begin(), row.end());
    batch.segment_starts.push_back(std::ssize(batch.row_tokens));
    batch.row_keys.push_back(std::ssize(batch.row_keys));
    before = row;
  }
  Lengths lengths;
  for (size_t s = 1; s < batch.segment_starts.size(); ++s) {
    lengths.push_back(batch.segment_starts[s] - batch.segment_starts[s - 1]);
  }
  const SharedTokens shared(batch, at::kCPU);
  const at::NoGradGuard no_grad;
  for (const auto type : {at::kFloat, at::kBFloat16}) {
    for (const Heads& heads : {Heads{4, 2, 24}, Heads{3, 1, 64}}) {
      const auto x = random_inputs(heads, {batch.num_tokens()}, type);
      ASSERT_TRUE(has_shared_attention(x[0]));
      for (const auto& [threads, window] :
           std::vector<std::pair<int, int64_t>>{{1, 0}, {5, 0}, {2, 70}}) {
        const at::Tensor whole = shared.from_rows(segment_attention(
            shared.to_rows(x[0]), shared.to_rows(x[1]), shared.to_rows(x[2]), lengths, window));
        const int usual = at::get_num_threads();
        at::set_num_threads(threads);
        const at::Tensor ours = shared_attention(x[0], x[1], x[2], batch, window);
        at::set_num_threads(usual);
        EXPECT_LT(testing::max_difference(ours, whole), type == at::kFloat ? 4e-6 : 2e-2);
      }
    }
  }
}

// Keys and values alone of 37 tokens, before segments that share tokens among themselves too.
TEST(Attention, BehindKeysThatAreThereIsThatOfWholeRows) {
  constexpr int64_t kBefore = 37;
  PackedBatch batch;
  batch.ids.resize(70);
  batch.row_keys = {0, 1, 2};
  for (int64_t t = 0; t < 60; ++t) batch.row_tokens.push_back(t);
  for (int64_t t = 0; t < 20; ++t) batch.row_tokens.push_back(t);
  for (int64_t t = 60; t < 70; ++t) batch.row_tokens.push_back(t);
  batch.row_tokens.insert(batch.row_tokens.end(), {0, 1, 2});
  batch.segment_starts = {0, 60, 90, 93};
  const Lengths own{60, 30, 3};
  const Lengths whole{kBefore + 60, kBefore + 30, kBefore + 3};
  const SharedTokens shared(batch, at::kCPU);
  const at::NoGradGuard no_grad;
  for (const int64_t window : {0, 41}) {
    const auto before = random_inputs({4, 2, 24}, {kBefore}, at::kFloat);
    const auto x = random_inputs({4, 2, 24}, {70}, at::kFloat);
    std::vector<at::Tensor> rows;
    for (int i = 0; i < 3; ++i) {
      std::vector<at::Tensor> parts;
      for (const at::Tensor& part : shared.to_rows(x[i]).split_with_sizes(own)) {
        parts.push_back(before[i]);
        parts.push_back(part);
      }
      rows.push_back(at::cat(parts));
    }
    std::vector<at::Tensor> expected;
    for (const at::Tensor& part :
         segment_attention(rows[0], rows[1], rows[2], whole, window).split_with_sizes(whole)) {
      expected.push_back(part.slice(0, kBefore));
    }
    const at::Tensor of_rows = at::cat(expected);
    const at::Tensor ours = shared_attention(x[0], at::cat({before[1], x[1]}),
                                             at::cat({before[2], x[2]}), batch, window);
    EXPECT_LT(testing::max_difference(ours, shared.from_rows(of_rows)), 4e-6) << window;
    const at::Tensor librarys =
        continued_attention(shared.to_rows(x[0]), at::cat({before[1], shared.to_rows(x[1])}),
                            at::cat({before[2], shared.to_rows(x[2])}), own, window);
    EXPECT_LT(testing::max_difference(librarys, of_rows), 4e-6) << window;
  }
}

// As they come out of one product of q, k and v.
TEST(Attention, TakesHeadsThatLieInOneTensor) {
  const Lengths lengths{20, 13};
  const at::Tensor all = at::randn({33, 8, 16});
  const at::Tensor q = all.narrow(1, 0, 4);
  const at::Tensor k = all.narrow(1, 4, 2);
  const at::Tensor v = all.narrow(1, 6, 2);
  EXPECT_TRUE(
      at::equal(segment_attention(q, k, v, lengths, 0),
                segment_attention(q.contiguous(), k.contiguous(), v.contiguous(), lengths, 0)));
}

}  // namespace
}  // namespace emoe::worker
