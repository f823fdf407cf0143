// Registered where CUDA is compiled in; skips where there is no GPU. Ranks are threads with a GPU
// each, bootstrapped through the loopback group.
#include <cstdio>
#include <memory>
#include <thread>
#include <vector>

#include <cuda_runtime_api.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/collective_body.h"
#include "worker/comm/loopback/loopback_communicator.h"
#include "worker/comm/nccl/nccl_communicator.h"

namespace emoe::worker {
namespace {

void ensure(cudaError_t code) {
  if (code != cudaSuccess) throw std::runtime_error(cudaGetErrorString(code));
}

// Takes host buffers and hands NCCL copies of them in device memory.
class StagedCommunicator final : public Communicator {
 public:
  explicit StagedCommunicator(Communicator& nccl) : Communicator(CountedWith{nccl}), nccl_(nccl) {}
  [[nodiscard]] int rank() const override { return nccl_.rank(); }
  [[nodiscard]] int world_size() const override { return nccl_.world_size(); }
  [[nodiscard]] std::string name() const override { return nccl_.name(); }
  void all_reduce_sum(std::span<float> buffer) override {
    stage(buffer, [&](std::span<float> device) { nccl_.all_reduce_sum(device); });
  }
  void all_reduce_sum(std::span<double> buffer) override {
    stage(buffer, [&](std::span<double> device) { nccl_.all_reduce_sum(device); });
  }
  void all_reduce_max(std::span<double> buffer) override {
    stage(buffer, [&](std::span<double> device) { nccl_.all_reduce_max(device); });
  }
  void broadcast(std::span<std::byte> buffer, int root) override {
    stage(buffer, [&](std::span<std::byte> device) { nccl_.broadcast(device, root); });
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    std::vector<std::byte> own(mine.begin(), mine.end());
    stage(std::span(own), [&](std::span<std::byte> from) {
      stage(out, [&](std::span<std::byte> into) { nccl_.all_gather(from, into); });
    });
  }
  void barrier() override { nccl_.barrier(); }

 private:
  template <typename T, typename Body>
  void stage(std::span<T> host, Body body) {
    T* data = nullptr;
    ensure(cudaMalloc(reinterpret_cast<void**>(&data), std::max<size_t>(1, host.size_bytes())));
    const std::unique_ptr<T, decltype(&cudaFree)> owner(data, &cudaFree);
    ensure(cudaMemcpy(data, host.data(), host.size_bytes(), cudaMemcpyHostToDevice));
    body(std::span<T>(data, host.size()));
    ensure(cudaMemcpy(host.data(), data, host.size_bytes(), cudaMemcpyDeviceToHost));
  }

  Communicator& nccl_;
};

TEST(Nccl, DoesAllCollectivesOnEveryGpu) {
  const int devices = std::min(nccl_device_count(), 4);
  auto hosts = make_loopback_group(devices);
  std::vector<std::jthread> threads;
  for (int d = 0; d < devices; ++d) {
    threads.emplace_back([&, d] {
      const auto nccl = make_nccl_communicator(*hosts[d], {.device = d});
      StagedCommunicator staged(*nccl);
      testing::check_all_collectives(staged);
      EXPECT_EQ(hosts[d]->counters().started, nccl->counters().started) << "one rank, one sequence";
    });
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
