#include "tests/worker/fake_device/fake_device.h"

#include <algorithm>
#include <cmath>
#include <mutex>
#include <utility>

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/Resize.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include "tests/worker/fake_device/fake_kernels.h"
#include "tests/worker/fake_device/fake_memory.h"
#include "worker/model/device_kernels.h"

namespace emoe::worker::testing {
namespace {

constexpr auto kFake = c10::DeviceType::PrivateUse1;

std::mutex log_mutex;
FakeDeviceLog counts;

template <typename Change>
void note(const Change& change) {
  const std::lock_guard lock(log_mutex);
  change(counts);
}

bool is_fake(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kFake;
}

// The same numbers as a tensor of the CPU.
at::Tensor seen_by_kernels(const at::Tensor& tensor) {
  if (!is_fake(tensor)) return tensor;
  const at::TensorOptions options(tensor.scalar_type());
  if (tensor.numel() == 0) return at::empty_strided(tensor.sizes(), tensor.strides(), options);
  return at::from_blob(kernels_view(tensor.const_data_ptr()), tensor.sizes(), tensor.strides(),
                       options);
}

at::Tensor new_fake(const at::Tensor& like) {
  return at::empty_strided(like.sizes(), like.strides(),
                           at::TensorOptions(like.scalar_type()).device(at::Device(kFake, 0)));
}

at::Tensor to_fake(const at::Tensor& result) {
  if (!result.defined()) return result;
  at::Tensor fake = new_fake(result);
  seen_by_kernels(fake).copy_(result);
  return fake;
}

// One call of an operator: what its arguments were replaced by.
class Call {
 public:
  explicit Call(std::string name) : name_(std::move(name)) {}

  c10::IValue replaced(const c10::IValue& value) {
    if (value.isTensor()) return of(value.toTensor());
    if (value.isDevice() && value.toDevice().type() == kFake) return at::Device(at::kCPU);
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(of(tensor));
      return list;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorList()) {
        list.push_back(tensor ? std::optional(of(*tensor)) : std::nullopt);
      }
      return list;
    }
    return value;
  }

  // The device's tensor for a result: an argument's own, changed in place, or a new one.
  c10::IValue result(const c10::IValue& value) {
    if (value.isTensorList()) {
      c10::List<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(result_of(tensor));
      return list;
    }
    return value.isTensor() ? c10::IValue(result_of(value.toTensor())) : value;
  }

  void check_devices() const {
    if (host_.empty() || replaced_.empty()) return;
    note([&](FakeDeviceLog& log) { log.mixes.push_back(name_ + " with " + host_); });
  }

 private:
  at::Tensor of(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!is_fake(tensor)) {
      // A number of the host is an argument of a kernel.
      if (tensor.dim() > 0) host_ = "a tensor of the host, " + std::string(tensor.toString());
      return tensor;
    }
    at::Tensor seen = seen_by_kernels(tensor);
    replaced_.emplace_back(seen, tensor);
    return seen;
  }
  at::Tensor result_of(const at::Tensor& tensor) {
    for (const auto& [seen, original] : replaced_) {
      if (!tensor.is_same(seen)) continue;
      if (seen.sizes() != original.sizes()) {  // out= of another size
        original.resize_(seen.sizes());
        seen_by_kernels(original).copy_(seen);
      }
      return original;
    }
    return to_fake(tensor);
  }

  std::string name_;
  std::string host_;
  std::vector<std::pair<at::Tensor, at::Tensor>> replaced_;  // what kernels see, the argument
};

// Whether the host waits for what the operator finds.
bool reads_back(const std::string& name) {
  for (const char* reader : {"aten::nonzero", "aten::equal", "aten::masked_select",
                             "aten::bincount", "aten::_unique2", "aten::is_nonzero"}) {
    if (name.starts_with(reader)) return true;
  }
  return false;
}

void run_on_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  const std::string name = toString(op.operator_name());
  note([&](FakeDeviceLog& log) {
    ++log.operators[name];
    if (reads_back(name)) ++log.downloads;
  });
  Call call(name);
  const size_t begin = stack->size() - schema.arguments().size();
  for (size_t i = begin; i < stack->size(); ++i) (*stack)[i] = call.replaced((*stack)[i]);
  call.check_devices();
  {
    const at::AutoDispatchBelowADInplaceOrView below;
    op.callBoxed(stack);
  }
  const size_t first = stack->size() - schema.returns().size();
  for (size_t i = first; i < stack->size(); ++i) (*stack)[i] = call.result((*stack)[i]);
}

at::Tensor empty(at::IntArrayRef size, std::optional<at::ScalarType> type,
                 std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>,
                 std::optional<at::MemoryFormat> format) {
  return at::detail::empty_generic(size, fake_allocator(),
                                   c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                   c10::dtype_or_default(type), format);
}

at::Tensor empty_strided(at::IntArrayRef size, at::IntArrayRef stride,
                         std::optional<at::ScalarType> type, std::optional<at::Layout>,
                         std::optional<at::Device>, std::optional<bool>) {
  return at::detail::empty_strided_generic(size, stride, fake_allocator(),
                                           c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           c10::dtype_or_default(type));
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool non_blocking) {
  note([&](FakeDeviceLog& log) {
    if (!is_fake(self)) {
      ++log.uploads;
      log.most_uploaded = std::max(log.most_uploaded, static_cast<int64_t>(self.nbytes()));
    }
    if (!is_fake(to)) ++log.downloads;
    if (is_fake(self) && is_fake(to)) {
      ++log.operators["aten::copy_"];
      return;
    }
    if (self.scalar_type() != to.scalar_type()) ++log.converted;
    const at::Tensor& host = is_fake(self) ? to : self;
    if (non_blocking && !is_pinned_memory(host.const_data_ptr())) ++log.pageable;
  });
  seen_by_kernels(to).copy_(seen_by_kernels(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar local_scalar(const at::Tensor& self) {
  note([](FakeDeviceLog& log) { ++log.downloads; });
  return seen_by_kernels(self).item();
}

// Which CPUs do not have.
at::Tensor mm_to(const at::Tensor& a, const at::Tensor& b, at::ScalarType type) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::mm.dtype"]; });
  return to_fake(at::mm(seen_by_kernels(a).to(type), seen_by_kernels(b).to(type)));
}

at::Tensor& addmm_to(const at::Tensor& sum, const at::Tensor& a, const at::Tensor& b,
                     at::ScalarType type, const at::Scalar& beta, const at::Scalar& alpha,
                     at::Tensor& out) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::addmm.dtype_out"]; });
  TORCH_CHECK(out.scalar_type() == type && sum.scalar_type() == type,
              "another type than asked for");
  seen_by_kernels(out).copy_(at::addmm(seen_by_kernels(sum), seen_by_kernels(a).to(type),
                                       seen_by_kernels(b).to(type), beta, alpha));
  return out;
}

const at::Tensor& resize(const at::Tensor& self, at::IntArrayRef size,
                         std::optional<at::MemoryFormat>) {
  auto* tensor = self.unsafeGetTensorImpl();
  tensor->set_sizes_contiguous(size);
  const size_t bytes = self.numel() * self.itemsize() + self.storage_offset() * self.itemsize();
  c10::StorageImpl* storage = self.storage().unsafeGetStorageImpl();
  if (bytes <= storage->nbytes()) return self;
  storage->set_data_ptr_noswap(
      fake_allocator()->allocate(bytes));  // only fresh tensors are resized
  storage->set_nbytes(bytes);
  return self;
}

// softmax(q k^T scale) v inside segments, each token seeing `left` before it; the plain definition.
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> flash_forward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>& starts, const std::optional<at::Tensor>&, int64_t, int64_t,
    double, bool, bool, std::optional<double>, std::optional<int64_t> left, std::optional<int64_t>,
    const std::optional<at::Tensor>&, const std::optional<at::Tensor>&);
std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor&, const at::Tensor&, const at::Tensor& starts, const at::Tensor&, int64_t,
    int64_t, double, bool, const at::Tensor&, const at::Tensor&, std::optional<double>,
    std::optional<int64_t> left, std::optional<int64_t>);

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt>
efficient_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& starts,
                  const std::optional<at::Tensor>&, std::optional<c10::SymInt>,
                  std::optional<c10::SymInt>, double, int64_t mask, bool with_sums,
                  std::optional<double>, const std::optional<at::Tensor>&, std::optional<int64_t>);
std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>& bias, const at::Tensor& out,
    const std::optional<at::Tensor>& starts, const std::optional<at::Tensor>&, c10::SymInt,
    c10::SymInt, const at::Tensor& sums, double, const at::Tensor&, const at::Tensor&, int64_t mask,
    bool, std::optional<double>, std::optional<int64_t> splits, std::optional<int64_t>, bool);

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&run_on_cpu>());
}
TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_from_and_resize);
  m.impl("_local_scalar_dense", &local_scalar);
  m.impl("resize_", &resize);
  m.impl("mm.dtype", &mm_to);
  m.impl("addmm.dtype_out", &addmm_to);
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("_flash_attention_forward", &flash_forward);
  m.impl("_flash_attention_backward", &flash_backward);
  m.impl("_efficient_attention_forward", &efficient_forward);
  m.impl("_efficient_attention_backward", &efficient_backward);
}

struct FakeGuard final : c10::impl::NoOpDeviceGuardImpl<kFake> {
  c10::Device exchangeDevice(c10::Device /*device*/) const override { return {kFake, 0}; }
  c10::Device getDevice() const override { return {kFake, 0}; }
  c10::Stream getStream(c10::Device /*device*/) const noexcept override { return stream(); }
  c10::Stream getNewStream(c10::Device /*device*/, int /*priority*/) const override {
    return stream();
  }
  c10::Stream exchangeStream(c10::Stream /*stream*/) const noexcept override { return stream(); }
  void* getStreamNativeHandle(const c10::Stream /*stream*/) const override { return nullptr; }
  void record(void** /*event*/, const c10::Stream& /*stream*/, const c10::DeviceIndex /*device*/,
              const c10::EventFlag /*flag*/) const override {}
  void block(void* /*event*/, const c10::Stream& /*stream*/) const override {}
  bool queryEvent(void* /*event*/) const override { return true; }
  void synchronizeEvent(void* /*event*/) const override {}
  double elapsedTime(void* /*begin*/, void* /*end*/,
                     const c10::DeviceIndex /*device*/) const override {
    return 0.0;
  }

  static c10::Stream stream() { return c10::Stream(c10::Stream::DEFAULT, c10::Device(kFake, 0)); }
};

struct FakeHooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex /*device*/) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex /*device*/) const override {
    return at::detail::getDefaultCPUGenerator();  // for manual_seed(); the worker draws by itself
  }
  at::Allocator* getPinnedMemoryAllocator() const override { return pinned_allocator(); }
  bool isPinnedPtr(const void* data) const override { return is_pinned_memory(data); }
};

C10_REGISTER_GUARD_IMPL(PrivateUse1, FakeGuard);

}  // namespace

at::Device fake_device() {
  static const bool registered = [] {
    c10::register_privateuse1_backend("fake");
    at::RegisterPrivateUse1HooksInterface(new FakeHooks);
    c10::SetAllocator(kFake, fake_allocator());
    use_device_kernels(kFake, &fake_kernels([](const std::string& name) {
                         note([&](FakeDeviceLog& log) { ++log.kernels[name]; });
                       }));
    return true;
  }();
  (void)registered;
  return {kFake, 0};
}

FakeDeviceLog take_fake_device_log() {
  const std::lock_guard lock(log_mutex);
  counts.pinned = take_pinned_peak();
  return std::exchange(counts, {});
}

namespace {

// [T, heads, d] of a segment → [heads, tokens, d] in fp32 with as many heads as q.
at::Tensor of_segment(const at::Tensor& x, int64_t begin, int64_t count, int64_t heads) {
  const at::Tensor rows = x.narrow(0, begin, count).to(at::kFloat).transpose(0, 1);
  return rows.repeat_interleave(heads / x.size(1), 0);
}

// Calls call(begin, count, p) for each segment with its softmax(q k^T / sqrt(d)), [heads, tokens, tokens].
template <typename Segment>
void for_segments(const at::Tensor& q, const at::Tensor& k, const at::Tensor& starts,
                  std::optional<int64_t> left, const Segment& segment) {
  const auto* start = starts.const_data_ptr<int32_t>();
  for (int64_t s = 0; s + 1 < starts.numel(); ++s) {
    const int64_t begin = start[s];
    const int64_t count = start[s + 1] - begin;
    at::Tensor seen = at::ones({count, count}, at::kBool).tril();
    if (left.value_or(-1) >= 0) seen = seen.triu(-*left);
    const at::Tensor scores = at::matmul(of_segment(q, begin, count, q.size(1)),
                                         of_segment(k, begin, count, q.size(1)).transpose(1, 2));
    const at::Tensor scaled = scores / std::sqrt(static_cast<double>(q.size(2)));
    segment(begin, count, scaled.masked_fill(seen.logical_not(), -INFINITY).softmax(-1));
  }
}

// [heads, tokens, d] → [tokens, kv_heads, d]: heads that share one add up.
at::Tensor shared_sum(const at::Tensor& x, int64_t kv_heads) {
  return x.unflatten(0, {kv_heads, -1}).sum(1).transpose(0, 1);
}

// Causal attention inside segments, each token seeing `left` before it, or all.
at::Tensor attention_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                             const at::Tensor& starts, std::optional<int64_t> left) {
  const at::Tensor values = seen_by_kernels(v);
  const at::Tensor out = at::empty(q.sizes(), q.scalar_type());
  for_segments(seen_by_kernels(q), seen_by_kernels(k), seen_by_kernels(starts), left,
               [&](int64_t begin, int64_t count, const at::Tensor& p) {
                 const at::Tensor y = at::matmul(p, of_segment(values, begin, count, q.size(1)));
                 out.narrow(0, begin, count).copy_(y.transpose(0, 1));
               });
  return to_fake(out);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, at::Tensor> flash_forward(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>& starts, const std::optional<at::Tensor>&, int64_t, int64_t,
    double, bool, bool, std::optional<double>, std::optional<int64_t> left, std::optional<int64_t>,
    const std::optional<at::Tensor>&, const std::optional<at::Tensor>&) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::_flash_attention_forward"]; });
  const at::Tensor state = at::zeros({2}, at::kLong);
  return {attention_forward(q, k, v, *starts, left), to_fake(at::zeros({q.size(1), q.size(0)})),
          to_fake(state), to_fake(state), at::Tensor()};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> attention_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor& starts, std::optional<int64_t> left) {
  const at::Tensor keys = seen_by_kernels(k);
  const at::Tensor values = seen_by_kernels(v);
  const at::Tensor queries = seen_by_kernels(q);
  const at::Tensor gradient = seen_by_kernels(d);
  const int64_t heads = q.size(1);
  const double scale = 1.0 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor dq = at::empty(q.sizes(), q.scalar_type());
  const at::Tensor dk = at::empty(k.sizes(), q.scalar_type());
  const at::Tensor dv = at::empty(v.sizes(), q.scalar_type());
  for_segments(queries, keys, seen_by_kernels(starts), left,
               [&](int64_t begin, int64_t count, const at::Tensor& p) {
                 const auto part = [&](const at::Tensor& x) {
                   return of_segment(x, begin, count, heads);
                 };
                 const at::Tensor dp = at::matmul(part(gradient), part(values).transpose(1, 2));
                 const at::Tensor ds = p * (dp - (dp * p).sum(-1, true)) * scale;
                 dq.narrow(0, begin, count).copy_(at::matmul(ds, part(keys)).transpose(0, 1));
                 dk.narrow(0, begin, count)
                     .copy_(shared_sum(at::matmul(ds.transpose(1, 2), part(queries)), k.size(1)));
                 dv.narrow(0, begin, count)
                     .copy_(shared_sum(at::matmul(p.transpose(1, 2), part(gradient)), k.size(1)));
               });
  return {to_fake(dq), to_fake(dk), to_fake(dv)};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> flash_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const at::Tensor&, const at::Tensor&, const at::Tensor& starts, const at::Tensor&, int64_t,
    int64_t, double, bool, const at::Tensor&, const at::Tensor&, std::optional<double>,
    std::optional<int64_t> left, std::optional<int64_t>) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::_flash_attention_backward"]; });
  return attention_backward(d, q, k, v, starts, left);
}

void check_efficient_call(const at::Tensor& q, const at::Tensor& k, int64_t mask) {
  TORCH_CHECK(q.dim() == 4 && q.size(0) == 1 && q.size(2) == k.size(2) && mask == 1,
              "not a call that LibTorch's CUDA kernel takes for causal segments");
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor, c10::SymInt, c10::SymInt>
efficient_forward(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
                  const std::optional<at::Tensor>& bias, const std::optional<at::Tensor>& starts,
                  const std::optional<at::Tensor>&, std::optional<c10::SymInt> longest,
                  std::optional<c10::SymInt>, double, int64_t mask, bool with_sums,
                  std::optional<double>, const std::optional<at::Tensor>&, std::optional<int64_t>) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::_efficient_attention_forward"]; });
  check_efficient_call(q, k, mask);
  TORCH_CHECK(!bias && with_sums && longest, "the backward pass needs sums and the longest length");
  const at::Tensor out =
      attention_forward(q.squeeze(0), k.squeeze(0), v.squeeze(0), *starts, std::nullopt);
  const at::Tensor state = to_fake(at::zeros({}, at::kLong));
  return {out.unsqueeze(0), to_fake(at::zeros({1, q.size(2), q.size(1)})), state, state, *longest,
          *longest};
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> efficient_backward(
    const at::Tensor& d, const at::Tensor& q, const at::Tensor& k, const at::Tensor& v,
    const std::optional<at::Tensor>&, const at::Tensor&, const std::optional<at::Tensor>& starts,
    const std::optional<at::Tensor>&, c10::SymInt, c10::SymInt, const at::Tensor&, double,
    const at::Tensor&, const at::Tensor&, int64_t mask, bool, std::optional<double>,
    std::optional<int64_t> splits, std::optional<int64_t>, bool) {
  note([](FakeDeviceLog& log) { ++log.operators["aten::_efficient_attention_backward"]; });
  check_efficient_call(q, k, mask);
  TORCH_CHECK(splits == 1, "keys that are split add up in no fixed order");
  const auto [dq, dk, dv] = attention_backward(d.squeeze(0), q.squeeze(0), k.squeeze(0),
                                               v.squeeze(0), *starts, std::nullopt);
  return {dq.unsqueeze(0), dk.unsqueeze(0), dv.unsqueeze(0), at::Tensor()};
}

}  // namespace
}  // namespace emoe::worker::testing
