#include "worker/model/staged_upload.h"

#include <algorithm>
#include <cstring>

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

namespace emoe::worker {
namespace {

constexpr int64_t kStageBytes = int64_t{32} << 20;
constexpr int64_t kCopyBytes = int64_t{1} << 20;  // of one thread at a time

// By all threads: a mapped file's pages come in while they are copied.
void copy_bytes(void* to, const void* from, int64_t count) {
  at::parallel_for(0, count, kCopyBytes, [&](int64_t begin, int64_t end) {
    std::memcpy(static_cast<char*>(to) + begin, static_cast<const char*>(from) + begin,
                end - begin);
  });
}

}  // namespace

StagedUpload::Stage& StagedUpload::next_stage() {
  Stage& stage = stages_[next_];
  next_ = (next_ + 1) % stages_.size();
  if (!stage.memory.defined()) {
    stage.memory = at::empty({kStageBytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  }
  if (stage.read) stage.read->synchronize();
  return stage;
}

at::Tensor StagedUpload::send(const at::Tensor& tensor) {
  if (device_.is_cpu() || !tensor.is_cpu()) return tensor;
  const at::NoGradGuard no_grad;
  const at::Tensor from = tensor.detach().contiguous();
  const at::Tensor there = at::empty(from.sizes(), from.options().device(device_));
  if (from.numel() == 0) return there;
  const at::Tensor bytes_there = there.flatten().view(at::kByte);
  const auto* bytes = static_cast<const char*>(from.const_data_ptr());
  const auto total = static_cast<int64_t>(from.nbytes());
  const c10::impl::VirtualGuardImpl guard(device_.type());
  for (int64_t begin = 0; begin < total; begin += kStageBytes) {
    const int64_t count = std::min(kStageBytes, total - begin);
    Stage& stage = next_stage();
    copy_bytes(stage.memory.mutable_data_ptr(), bytes + begin, count);
    bytes_there.narrow(0, begin, count)
        .copy_(stage.memory.narrow(0, 0, count), /*non_blocking=*/true);
    stage.read.emplace(device_.type(), c10::EventFlag::BACKEND_DEFAULT);
    stage.read->record(guard.getStream(device_));
  }
  return there;
}

}  // namespace emoe::worker
