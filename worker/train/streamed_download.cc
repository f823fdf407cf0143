#include "worker/train/streamed_download.h"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include "base/check.h"

namespace emoe::worker {

void StreamedDownload::begin(size_t index) {
  if (index >= makes_.size()) return;
  const at::NoGradGuard no_grad;
  Buffer& buffer = buffers_[index % buffers_.size()];
  const at::Tensor made = makes_[index]();
  buffer.there.reset();
  if (made.is_cpu() || made.numel() == 0) {
    buffer.tensor = made.cpu();
    return;
  }
  const auto bytes = static_cast<int64_t>(made.nbytes());
  if (!buffer.memory.defined() || buffer.memory.numel() < bytes) {
    buffer.tensor = at::Tensor();
    buffer.memory = at::Tensor();  // before there is another one
    buffer.memory = at::empty({bytes}, at::TensorOptions(at::kByte).pinned_memory(true));
  }
  buffer.tensor = buffer.memory.narrow(0, 0, bytes).view(made.scalar_type()).view(made.sizes());
  buffer.tensor.copy_(made, /*non_blocking=*/true);
  const c10::impl::VirtualGuardImpl guard(made.device().type());
  buffer.there.emplace(made.device().type(), c10::EventFlag::BACKEND_DEFAULT);
  buffer.there->record(guard.getStream(made.device()));
}

at::Tensor StreamedDownload::next() {
  EMOE_CHECK(next_ < makes_.size(), "there is no further tensor");
  if (next_ == 0) begin(0);
  // The other buffer: what next() gave before this is not needed any more.
  begin(next_ + 1);
  Buffer& buffer = buffers_[next_++ % buffers_.size()];
  if (buffer.there) buffer.there->synchronize();
  return buffer.tensor;
}

}  // namespace emoe::worker
