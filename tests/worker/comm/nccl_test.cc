// Registered where CUDA is compiled in; skips where there is no GPU. Ranks are threads with a GPU
// each, bootstrapped through the loopback group.
#include <cstdio>
#include <cstring>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "worker/comm/loopback/loopback_communicator.h"
#include "worker/comm/nccl/nccl_communicator.h"

namespace emoe::worker {
namespace {

void ensure(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

// Host values in device memory and back.
template <typename T>
class DeviceBuffer {
 public:
  explicit DeviceBuffer(const std::vector<T>& values) : size_(values.size()) {
    ensure(cudaMalloc(reinterpret_cast<void**>(&data_), std::max<size_t>(1, size_) * sizeof(T)));
    ensure(cudaMemcpy(data_, values.data(), size_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceBuffer() { cudaFree(data_); }
  [[nodiscard]] std::span<T> span() { return {data_, size_}; }
  [[nodiscard]] std::vector<T> values() const {
    std::vector<T> result(size_);
    ensure(cudaMemcpy(result.data(), data_, size_ * sizeof(T), cudaMemcpyDeviceToHost));
    return result;
  }

 private:
  T* data_ = nullptr;
  size_t size_;
};

void check_rank(Communicator& host, int device) {
  const auto comm = make_nccl_communicator(host, device);
  EXPECT_EQ(comm->rank(), host.rank());
  const int world = comm->world_size();
  for (const size_t size : {size_t{0}, size_t{1}, size_t{1023}, size_t{1'000'003}}) {
    DeviceBuffer<float> sum(std::vector<float>(size, static_cast<float>(comm->rank() + 1)));
    comm->all_reduce_sum(sum.span());
    for (const float v : sum.values()) ASSERT_EQ(v, static_cast<float>(world * (world + 1) / 2));
    DeviceBuffer<double> max(std::vector<double>(size, comm->rank()));
    comm->all_reduce_max(max.span());
    for (const double v : max.values()) ASSERT_EQ(v, world - 1);
    DeviceBuffer<double> from_last(std::vector<double>(size, comm->rank()));
    comm->broadcast(std::as_writable_bytes(from_last.span()), world - 1);
    for (const double v : from_last.values()) ASSERT_EQ(v, world - 1);
    DeviceBuffer<float> mine(std::vector<float>(size, static_cast<float>(comm->rank())));
    DeviceBuffer<float> all(std::vector<float>(size * static_cast<size_t>(world)));
    comm->all_gather(std::as_bytes(mine.span()), std::as_writable_bytes(all.span()));
    const auto gathered = all.values();
    for (size_t i = 0; i < gathered.size(); ++i) {
      ASSERT_EQ(gathered[i], static_cast<float>(i / std::max<size_t>(1, size)));
    }
  }
  comm->barrier();
  EXPECT_EQ(comm->counters().started, 17);
  EXPECT_EQ(comm->counters().completed, 17);
}

TEST(Nccl, DoesAllCollectivesOnEveryGpu) {
  const int devices = std::min(nccl_device_count(), 4);
  auto hosts = make_loopback_group(devices);
  std::vector<std::jthread> threads;
  for (int d = 0; d < devices; ++d) {
    threads.emplace_back([&, d] { check_rank(*hosts[d], d); });
  }
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  ::testing::InitGoogleTest(&argc, argv);
  if (emoe::worker::nccl_device_count() == 0) {
    std::puts("SKIPPED: no GPU (cudaGetDeviceCount finds none), NCCL cannot run");
    return 77;
  }
  return RUN_ALL_TESTS();
}
