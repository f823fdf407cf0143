#include "worker/model/own_attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "worker/model/kernels/attention_kernel.h"

namespace emoe::worker {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

struct AttentionTensors {
  at::Tensor q, k, v, o, log_sums;  // [T, heads or kv_heads, d]; log_sums [heads, T] fp32
  at::Tensor d_o, d_q, d_k, d_v;    // in a backward pass
  int64_t window = 0;               // see segment_attention()
};

// Token t's head has its numbers in line.
at::Tensor in_lines(const at::Tensor& x) {
  return x.stride(-1) == 1 ? x : x.contiguous();
}

template <typename T>
HeadRows<T> head_rows(const at::Tensor& x, int64_t first_token, int64_t head) {
  if (!x.defined()) return {nullptr, 0};
  auto* data = static_cast<T*>(const_cast<void*>(x.const_data_ptr()));
  return {data + first_token * x.stride(0) + head * x.stride(1), x.stride(0)};
}

template <typename T>
AttentionHead<T> head_of(const AttentionTensors& x, int64_t first, int64_t length, int64_t head) {
  const int64_t shared = x.q.size(1) / x.k.size(1);
  AttentionHead<T> part{};
  part.length = length;
  part.window = x.window == 0 || x.window >= length ? 0 : x.window;
  part.size = x.q.size(2);
  part.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(part.size)));
  part.q = head_rows<const T>(x.q, first, head);
  part.k = head_rows<const T>(x.k, first, head / shared);
  part.v = head_rows<const T>(x.v, first, head / shared);
  part.o = head_rows<T>(x.o, first, head);
  part.log_sums = x.log_sums.mutable_data_ptr<float>() + head * x.log_sums.size(1) + first;
  part.d_o = head_rows<const T>(x.d_o, first, head);
  part.d_q = head_rows<T>(x.d_q, first, head);
  return part;
}

// Calls part(first token, length, key head, memory) for every segment and key head. A thread takes
// the next when it is done with one, since they differ in cost; `memory` is its own, all zero at
// first.
template <typename Part>
void for_key_heads(const std::vector<int64_t>& lengths, int64_t heads, int64_t memory_size,
                   const Part& part) {
  std::vector<int64_t> starts;
  int64_t total = 0;
  for (const int64_t length : lengths) {
    starts.push_back(total);
    total += length;
  }
  const auto count = static_cast<int64_t>(lengths.size()) * heads;
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min<int64_t>(at::get_num_threads(), count), 1, [&](int64_t, int64_t) {
    std::vector<float> memory(memory_size);
    for (int64_t i = next++; i < count; i = next++) {
      part(starts[i / heads], lengths[i / heads], i % heads, memory.data());
    }
  });
}

template <typename T>
void run_forward(const AttentionKernel<T>& kernel, const AttentionTensors& x,
                 const std::vector<int64_t>& lengths) {
  const int64_t heads = x.q.size(1);
  for_key_heads(lengths, heads, attention_workspace(x.q.size(2)),
                [&](int64_t first, int64_t length, int64_t head, float* memory) {
                  AttentionHead<T> part = head_of<T>(x, first, length, head);
                  part.workspace = memory;
                  kernel.forward(part);
                });
}

// The heads that share keys and values add to their gradients one after another.
template <typename T>
void run_backward(const AttentionKernel<T>& kernel, const AttentionTensors& x,
                  const std::vector<int64_t>& lengths) {
  const int64_t size = x.q.size(2);
  const int64_t shared = x.q.size(1) / x.k.size(1);
  const int64_t sums = size * *std::max_element(lengths.begin(), lengths.end());
  for_key_heads(lengths, x.k.size(1), attention_workspace(size) + 2 * sums,
                [&](int64_t first, int64_t length, int64_t key_head, float* memory) {
                  float* d_k = memory + attention_workspace(size);
                  float* d_v = d_k + sums;
                  std::fill_n(d_k, 2 * sums, 0.0F);
                  for (int64_t i = 0; i < shared; ++i) {
                    AttentionHead<T> part = head_of<T>(x, first, length, key_head * shared + i);
                    part.workspace = memory;
                    part.d_k = d_k;
                    part.d_v = d_v;
                    kernel.backward(part);
                  }
                  kernel.store(d_k, head_rows<T>(x.d_k, first, key_head), length, size);
                  kernel.store(d_v, head_rows<T>(x.d_v, first, key_head), length, size);
                });
}

// The keys and values of one segment and key head, in lines of their own: of the segments of a batch,
// those that follow each other share most.
template <typename T>
class SegmentLines {
 public:
  SegmentLines(int64_t longest, int64_t size)
      : size_(size), keys_(longest * size), values_(longest * size), held_(longest, -1) {}

  // What is held is of another head.
  void forget() { std::fill(held_.begin(), held_.end(), -1); }
  // Takes the tokens [row, row + length).
  void hold(const HeadRows<const T>& k, const HeadRows<const T>& v, const int64_t* row,
            int64_t length) {
    for (int64_t i = 0; i < length; ++i) {
      if (held_[i] == row[i]) continue;
      held_[i] = row[i];
      std::copy_n(k.data + row[i] * k.stride, size_, keys_.data() + i * size_);
      std::copy_n(v.data + row[i] * v.stride, size_, values_.data() + i * size_);
    }
  }
  [[nodiscard]] HeadRows<const T> keys() const { return {keys_.data(), size_}; }
  [[nodiscard]] HeadRows<const T> values() const { return {values_.data(), size_}; }

 private:
  int64_t size_;
  std::vector<T> keys_;
  std::vector<T> values_;
  std::vector<int64_t> held_;
};

// One segment of a batch that shares tokens.
struct SharedSegment {
  int64_t begin;  // of its tokens in SharedSegments::tokens
  int64_t length;
  int64_t
      shared;  // its first so many came up before; the others lie side by side, in q from `own` on
  int64_t own;
};

struct SharedSegments {
  std::vector<int64_t> tokens;  // which of the keys each is, segment after segment
  std::vector<SharedSegment> segments;
  int64_t longest = 0;
};

// The first `before` keys stand before every segment of the batch.
SharedSegments shared_segments(const PackedBatch& batch, int64_t before) {
  SharedSegments all;
  int64_t seen = 0;
  for (int64_t s = 0; s < batch.num_segments(); ++s) {
    SharedSegment segment{.begin = std::ssize(all.tokens), .length = before, .shared = before};
    for (int64_t i = 0; i < before; ++i) all.tokens.push_back(i);
    for (int64_t r = batch.segment_starts[s]; r < batch.segment_starts[s + 1]; ++r) {
      const int64_t token = batch.row_tokens.empty() ? r : batch.row_tokens[r];
      if (token < seen) ++segment.shared;
      all.tokens.push_back(before + token);
      ++segment.length;
    }
    segment.own = seen;
    seen += segment.length - segment.shared;
    all.longest = std::max(all.longest, segment.length);
    all.segments.push_back(segment);
  }
  return all;
}

template <typename T>
void attend(const AttentionKernel<T>& kernel, const AttentionTensors& x, int64_t head,
            const SharedSegment& segment, const SegmentLines<T>& lines, float* memory) {
  if (segment.shared == segment.length) return;
  // Position 0 of its own tokens' lines, had all of the segment such lines.
  AttentionHead<T> part = head_of<T>(x, segment.own - segment.shared, segment.length, head);
  part.first = segment.shared;
  part.k = lines.keys();
  part.v = lines.values();
  part.workspace = memory;
  kernel.forward(part);
}

// Threads share the key heads, and where these are few, ranges of the segments.
template <typename T>
void run_shared(const AttentionKernel<T>& kernel, const AttentionTensors& x,
                const SharedSegments& all) {
  const int64_t size = x.q.size(2);
  const int64_t key_heads = x.k.size(1);
  const int64_t group = x.q.size(1) / key_heads;
  const std::vector<SharedSegment>& segments = all.segments;
  const auto count = static_cast<int64_t>(segments.size());
  const int64_t threads = at::get_num_threads();
  const int64_t ranges = std::clamp<int64_t>(2 * threads / key_heads, 1, count);
  std::atomic<int64_t> next = 0;
  at::parallel_for(0, std::min(threads, ranges * key_heads), 1, [&](int64_t, int64_t) {
    std::vector<float> memory(attention_workspace(size));
    SegmentLines<T> lines(all.longest, size);
    for (int64_t i = next++; i < ranges * key_heads; i = next++) {
      const int64_t key_head = i % key_heads;
      const auto k = head_rows<const T>(x.k, 0, key_head);
      const auto v = head_rows<const T>(x.v, 0, key_head);
      lines.forget();
      const int64_t range = i / key_heads;
      for (int64_t s = count * range / ranges; s < count * (range + 1) / ranges; ++s) {
        lines.hold(k, v, all.tokens.data() + segments[s].begin, segments[s].length);
        for (int64_t h = key_head * group; h < (key_head + 1) * group; ++h) {
          attend(kernel, x, h, segments[s], lines, memory.data());
        }
      }
    }
  });
}

class OwnAttention : public torch::autograd::Function<OwnAttention> {
 public:
  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& q, const at::Tensor& k,
                            const at::Tensor& v, const std::vector<int64_t>& lengths,
                            int64_t window) {
    AttentionTensors x{.q = in_lines(q), .k = in_lines(k), .v = in_lines(v)};
    x.window = window;
    x.o = at::empty(q.sizes(), q.options());
    x.log_sums = at::empty({q.size(1), q.size(0)}, q.options().dtype(at::kFloat));
    if (q.scalar_type() == at::kFloat) {
      run_forward(attention_kernels().of_float, x, lengths);
    } else {
      run_forward(*attention_kernels().of_bf16, x, lengths);
    }
    ctx->save_for_backward({x.q, x.k, x.v, x.o, x.log_sums});
    ctx->saved_data["lengths"] = lengths;
    ctx->saved_data["window"] = window;
    return x.o;
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const variable_list saved = ctx->get_saved_variables();
    AttentionTensors x{.q = saved[0], .k = saved[1], .v = saved[2], .o = saved[3]};
    x.log_sums = saved[4];
    x.window = ctx->saved_data["window"].toInt();
    x.d_o = in_lines(grads[0]);
    x.d_q = at::empty(x.q.sizes(), x.q.options());
    x.d_k = at::empty(x.k.sizes(), x.k.options());
    x.d_v = at::empty(x.v.sizes(), x.v.options());
    const std::vector<int64_t> lengths = ctx->saved_data["lengths"].toIntVector();
    if (x.q.scalar_type() == at::kFloat) {
      run_backward(attention_kernels().of_float, x, lengths);
    } else {
      run_backward(*attention_kernels().of_bf16, x, lengths);
    }
    return {x.d_q, x.d_k, x.d_v, at::Tensor(), at::Tensor()};
  }
};

}  // namespace

bool has_own_attention(const at::Tensor& q) {
  if (!q.is_cpu()) return false;
  return q.scalar_type() == at::kFloat ||
         (q.scalar_type() == at::kBFloat16 && attention_kernels().of_bf16 != nullptr);
}

at::Tensor own_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                         const std::vector<int64_t>& lengths, int64_t window) {
  return OwnAttention::apply(q, k, v, lengths, window);
}

at::Tensor own_shared_attention(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                                const PackedBatch& batch, int64_t window) {
  AttentionTensors x{.q = in_lines(q), .k = in_lines(k), .v = in_lines(v)};
  x.window = window;
  x.o = at::empty(q.sizes(), q.options());
  x.log_sums = at::empty({q.size(1), q.size(0)}, q.options().dtype(at::kFloat));
  const SharedSegments segments = shared_segments(batch, k.size(0) - q.size(0));
  if (q.scalar_type() == at::kFloat) {
    run_shared(attention_kernels().of_float, x, segments);
  } else {
    run_shared(*attention_kernels().of_bf16, x, segments);
  }
  return x.o;
}

}  // namespace emoe::worker
