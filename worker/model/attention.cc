#include "worker/model/attention.h"

#include <algorithm>
#include <optional>

#include <ATen/ATen.h>

#include "worker/model/flash_attention.h"
#include "worker/model/own_attention.h"
#include "worker/model/products.h"

namespace emoe::worker {
namespace {

// [rows * length, heads, d] → [rows, heads, length, d], a view.
at::Tensor batched(const at::Tensor& x, int64_t length) {
  return x.unflatten(0, {-1, length}).transpose(1, 2);
}

// Each key/value head repeated for the query heads that share it. The CPU's fused kernel wants as
// many of them as query heads.
at::Tensor repeated(const at::Tensor& x, int64_t heads, int64_t dim) {
  const int64_t shared = heads / x.size(dim);
  return shared == 1 ? x : x.repeat_interleave(shared, dim);
}

// [tokens, total]: which of all tokens each of the last ones sees.
at::Tensor visible(int64_t tokens, int64_t total, int64_t window, at::Device device) {
  const auto options = at::TensorOptions().dtype(at::kBool).device(device);
  const int64_t before = total - tokens;
  const at::Tensor causal = at::ones({tokens, total}, options).tril(before);
  return window == 0 ? causal : causal.triu(before - window + 1);
}

at::Tensor equal_segments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                          int64_t length, int64_t window) {
  const bool whole = window == 0 || window >= length;
  std::optional<at::Tensor> mask;
  if (!whole) mask = visible(length, length, window, q.device());
  const at::Tensor out = at::scaled_dot_product_attention(batched(q, length), batched(k, length),
                                                          batched(v, length), mask, 0.0, whole);
  return out.transpose(1, 2).flatten(0, 1);
}

at::Tensor library_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const std::vector<int64_t>& lengths, int64_t window) {
  const at::Tensor keys = repeated(k, q.size(1), 1);
  const at::Tensor values = repeated(v, q.size(1), 1);
  const bool equal = std::all_of(lengths.begin(), lengths.end(),
                                 [&](int64_t length) { return length == lengths.front(); });
  if (equal) return equal_segments(q, keys, values, lengths.front(), window);
  // split: its backward is one concatenation, where slices would each make a gradient of full size.
  const auto q_parts = q.split_with_sizes(lengths);
  const auto k_parts = keys.split_with_sizes(lengths);
  const auto v_parts = values.split_with_sizes(lengths);
  std::vector<at::Tensor> out;
  out.reserve(lengths.size());
  for (size_t s = 0; s < lengths.size(); ++s) {
    out.push_back(equal_segments(q_parts[s], k_parts[s], v_parts[s], lengths[s], window));
  }
  return at::cat(out);
}

}  // namespace

at::Tensor segment_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const Segments& segments, int64_t window) {
  const std::vector<int64_t>& lengths = segments.lengths;
  if (!q.is_cpu()) {
    const at::Tensor starts = segments.starts.defined()
                                  ? segments.starts
                                  : at::tensor(segment_starts(lengths), at::kInt).to(q.device());
    const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
    if (has_flash_attention(q)) return flash_attention(q, k, v, starts, longest, window);
    if (has_efficient_attention(q) && (window == 0 || window >= longest)) {
      return efficient_attention(q, k, v, starts, longest);
    }
  }
  if (widens_halves(q)) {
    return segment_attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), segments, window)
        .to(q.scalar_type());
  }
  if (has_own_attention(q)) return own_attention(q, k, v, lengths, window);
  return library_attention(q, k, v, lengths, window);
}

bool has_shared_attention(const at::Tensor& q) {
  return !at::GradMode::is_enabled() && (has_own_attention(q) || widens_halves(q));
}

at::Tensor shared_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            const PackedBatch& batch, int64_t window) {
  if (widens_halves(q)) {
    return own_shared_attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), batch, window)
        .to(q.scalar_type());
  }
  return own_shared_attention(q, k, v, batch, window);
}

at::Tensor cached_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                            int64_t window) {
  if (widens_halves(q)) {
    return cached_attention(q.to(at::kFloat), k.to(at::kFloat), v.to(at::kFloat), window)
        .to(q.scalar_type());
  }
  const at::Tensor out = at::scaled_dot_product_attention(
      q.transpose(0, 1).unsqueeze(0), repeated(k, q.size(1), 0).unsqueeze(0),
      repeated(v, q.size(1), 0).unsqueeze(0), visible(q.size(0), k.size(1), window, q.device()));
  return out.squeeze(0).transpose(0, 1);
}

at::Tensor continued_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                               const std::vector<int64_t>& lengths, int64_t window) {
  const int64_t before = k.size(0) - q.size(0);
  // Of one segment [kv_heads, before + length, d].
  const auto with_those_before = [before](const at::Tensor& all, int64_t begin, int64_t length) {
    return at::cat({all.narrow(0, 0, before), all.narrow(0, before + begin, length)})
        .transpose(0, 1);
  };
  std::vector<at::Tensor> out;
  int64_t begin = 0;
  for (const int64_t length : lengths) {
    out.push_back(cached_attention(q.narrow(0, begin, length), with_those_before(k, begin, length),
                                   with_those_before(v, begin, length), window));
    begin += length;
  }
  return at::cat(out);
}

}  // namespace emoe::worker
