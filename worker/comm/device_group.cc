#include "worker/comm/device_group.h"

#include <exception>

#include <ATen/ATen.h>

#include "base/check.h"

namespace emoe::worker {
namespace {

bool is_half(at::ScalarType type) {
  return type == at::kBFloat16 || type == at::kHalf;
}

bool can_be_summed(at::ScalarType type) {
  return type == at::kFloat || type == at::kDouble || type == at::kLong || is_half(type);
}

bool can_be_moved(at::ScalarType type) {
  return can_be_summed(type) || type == at::kBool || type == at::kByte;
}

Number number_of(at::ScalarType type) {
  if (type == at::kFloat) return Number::float32;
  if (type == at::kDouble) return Number::float64;
  EMOE_CHECK(type == at::kLong);
  return Number::int64;
}

std::span<std::byte> bytes_of(const at::Tensor& tensor) {
  return {static_cast<std::byte*>(tensor.data_ptr()), tensor.nbytes()};
}

class CpuGroup final : public DeviceGroup {
 public:
  CpuGroup(std::shared_ptr<Transport> transport, std::shared_ptr<CollectiveCounters> counters)
      : DeviceGroup(std::move(counters)), transport_(std::move(transport)) {}

  [[nodiscard]] int rank() const override { return transport_->rank(); }
  [[nodiscard]] int world_size() const override { return transport_->world_size(); }

 private:
  std::function<void()> start(const Operation& operation) override {
    if (world_size() > 1) {
      EMOE_CHECK(operation.in.is_cpu(), "tensors on a GPU, and a group for host memory");
      run(operation);
    } else if (!operation.in.is_same(operation.out)) {
      operation.out.flatten().copy_(operation.in.flatten());
    }
    return [] {};
  }

  std::unique_ptr<DeviceGroup> make_split(int color, int key) override {
    return std::make_unique<CpuGroup>(transport_->split(color, key), counters());
  }

  void run(const Operation& operation) {
    switch (operation.kind) {
      case CollectiveKind::all_gather:
        return transport_->all_gather(bytes_of(operation.in), bytes_of(operation.out));
      case CollectiveKind::broadcast:
        return transport_->broadcast(bytes_of(operation.out), operation.root);
      default:
        break;
    }
    if (!is_half(operation.in.scalar_type())) {
      return add(operation.kind, operation.in, operation.out);
    }
    const at::Tensor in = operation.in.to(at::kFloat);
    const bool in_place = operation.in.is_same(operation.out);
    const at::Tensor out = in_place ? in : at::empty(operation.out.sizes(), at::kFloat);
    add(operation.kind, in, out);
    operation.out.copy_(out);
  }

  void add(CollectiveKind kind, const at::Tensor& in, const at::Tensor& out) {
    const Number number = number_of(in.scalar_type());
    const auto count = static_cast<size_t>(out.numel());
    if (kind == CollectiveKind::all_reduce) {
      transport_->all_reduce(kind, out.data_ptr(), count, number);
    } else {
      transport_->reduce_scatter(in.data_ptr(), out.data_ptr(), count, number);
    }
  }

  std::shared_ptr<Transport> transport_;
};

}  // namespace

void Work::wait() {
  EMOE_CHECK(finish_ != nullptr, "a collective is waited for once");
  counted_.enter();
  finish_();
  finish_ = nullptr;  // and with it the tensors
  counted_.done(bytes_);
}

Work DeviceGroup::all_reduce(const at::Tensor& tensor) {
  EMOE_CHECK(can_be_summed(tensor.scalar_type()));
  return begin({CollectiveKind::all_reduce, tensor, tensor});
}

Work DeviceGroup::reduce_scatter(const at::Tensor& in, const at::Tensor& out) {
  EMOE_CHECK(can_be_summed(in.scalar_type()) && in.numel() == out.numel() * world_size());
  return begin({CollectiveKind::reduce_scatter, in, out});
}

Work DeviceGroup::all_gather(const at::Tensor& in, const at::Tensor& out) {
  EMOE_CHECK(out.numel() == in.numel() * world_size());
  return begin({CollectiveKind::all_gather, in, out});
}

Work DeviceGroup::broadcast(const at::Tensor& tensor, int root) {
  EMOE_CHECK(root >= 0 && root < world_size());
  return begin({CollectiveKind::broadcast, tensor, tensor, root});
}

std::unique_ptr<DeviceGroup> DeviceGroup::split(int color, int key) {
  EMOE_CHECK(color >= 0);
  CountedCollective counted(counters_, CollectiveKind::split);
  auto part = make_split(color, key);
  counted.done(0);
  return part;
}

Work DeviceGroup::begin(const Operation& operation) {
  const at::Tensor &in = operation.in, &out = operation.out;
  EMOE_CHECK(in.is_contiguous() && out.is_contiguous() && in.device() == out.device());
  EMOE_CHECK(in.scalar_type() == out.scalar_type() && can_be_moved(in.scalar_type()));
  const at::NoGradGuard no_grad;
  CountedCollective counted(counters_, operation.kind);
  std::function<void()> finish;
  try {
    finish = start(operation);
  } catch (const CommunicationError&) {
    finish = [error = std::current_exception()] { std::rethrow_exception(error); };
  }
  counted.leave();
  return {std::move(counted), out.nbytes(), std::move(finish)};
}

std::unique_ptr<DeviceGroup> make_cpu_group(const HostGroup& host) {
  return std::make_unique<CpuGroup>(host.transport(), host.counters());
}

}  // namespace emoe::worker
