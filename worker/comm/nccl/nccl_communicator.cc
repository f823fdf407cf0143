#include "worker/comm/nccl/nccl_communicator.h"

#include <thread>

#include <absl/strings/str_cat.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

#include "base/check.h"
#include "base/log.h"

namespace emoe::worker {
namespace {

void check_cuda(cudaError_t code, const char* operation) {
  if (code == cudaSuccess) return;
  throw CommunicationError(absl::StrCat(operation, ": CUDA: ", cudaGetErrorString(code)));
}

// Stream, event and a few bytes of device memory, released in any order of failure.
class DeviceResources {
 public:
  explicit DeviceResources(int device) {
    check_cuda(cudaSetDevice(device), "cudaSetDevice");
    check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
    check_cuda(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate");
    check_cuda(cudaMalloc(reinterpret_cast<void**>(&scratch), sizeof(float)), "cudaMalloc");
    check_cuda(cudaMemset(scratch, 0, sizeof(float)), "cudaMemset");
  }
  DeviceResources(const DeviceResources&) = delete;
  DeviceResources& operator=(const DeviceResources&) = delete;
  ~DeviceResources() {
    if (scratch != nullptr) cudaFree(scratch);
    if (event != nullptr) cudaEventDestroy(event);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }

  cudaStream_t stream = nullptr;
  cudaEvent_t event = nullptr;
  float* scratch = nullptr;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& host, int device)
      : rank_(host.rank()),
        world_size_(host.world_size()),
        device_(device),
        resources_(std::make_unique<DeviceResources>(device)) {
    ncclUniqueId id{};
    if (rank_ == 0) check_call(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // calls return at once: a peer that never comes can be reported
    const ncclResult_t result = ncclCommInitRankConfig(&comm_, world_size_, id, rank_, &config);
    if (result != ncclInProgress) check_call(result, "ncclCommInitRank");
    wait_for_library("ncclCommInitRank");
  }

  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    cudaSetDevice(device_);
    try {
      const ncclResult_t result = ncclCommFinalize(comm_);
      if (result == ncclSuccess || result == ncclInProgress) wait_for_library("ncclCommFinalize");
      if (comm_ != nullptr) ncclCommDestroy(comm_);
    } catch (const CommunicationError& error) {
      log_warning("closing the NCCL communicator: %s", error.what());
    }
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }
  [[nodiscard]] std::string name() const override { return "nccl"; }

  void all_reduce_sum(std::span<float> buffer) override {
    run("all_reduce", [&] { return reduce(buffer, ncclFloat32, ncclSum); });
  }
  void all_reduce_sum(std::span<double> buffer) override {
    run("all_reduce", [&] { return reduce(buffer, ncclFloat64, ncclSum); });
  }
  void all_reduce_max(std::span<double> buffer) override {
    run("all_reduce_max", [&] { return reduce(buffer, ncclFloat64, ncclMax); });
  }
  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size_);
    run("broadcast", [&] {
      return ncclBroadcast(buffer.data(), buffer.data(), buffer.size(), ncclUint8, root, comm_,
                           resources_->stream);
    });
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    EMOE_CHECK(out.size() == mine.size() * static_cast<size_t>(world_size_));
    run("all_gather", [&] {
      return ncclAllGather(mine.data(), out.data(), mine.size(), ncclUint8, comm_,
                           resources_->stream);
    });
  }
  void barrier() override {
    run("barrier",
        [&] { return reduce(std::span<float>(resources_->scratch, 1), ncclFloat32, ncclSum); });
  }

 private:
  template <typename T>
  ncclResult_t reduce(std::span<T> buffer, ncclDataType_t type, ncclRedOp_t op) {
    return ncclAllReduce(buffer.data(), buffer.data(), buffer.size(), type, op, comm_,
                         resources_->stream);
  }

  template <typename Enqueue>
  void run(const char* operation, Enqueue enqueue) {
    if (comm_ == nullptr) {
      throw CommunicationError(absl::StrCat(operation, ": the communicator was aborted"));
    }
    Collective collective(counters_, operation);
    check_cuda(cudaSetDevice(device_), operation);
    check_cuda(cudaEventRecord(resources_->event, nullptr), operation);
    check_cuda(cudaStreamWaitEvent(resources_->stream, resources_->event, 0), operation);
    const ncclResult_t result = enqueue();
    if (result != ncclInProgress) check_call(result, operation);
    wait_for_library(operation);
    wait_for_stream(operation);
    collective.done();
  }

  // Until the library has done what it was told (start-up, or putting the kernel on the stream).
  void wait_for_library(const char* operation) {
    for (;;) {
      ncclResult_t state = ncclSuccess;
      check_call(ncclCommGetAsyncError(comm_, &state), operation);
      if (state == ncclSuccess) return;
      if (state != ncclInProgress) check_call(state, operation);
      std::this_thread::yield();
    }
  }

  void wait_for_stream(const char* operation) {
    for (;;) {
      const cudaError_t done = cudaStreamQuery(resources_->stream);
      if (done == cudaSuccess) return;
      if (done != cudaErrorNotReady) check_cuda(done, operation);
      ncclResult_t state = ncclSuccess;
      check_call(ncclCommGetAsyncError(comm_, &state), operation);
      if (state != ncclInProgress) check_call(state, operation);
      std::this_thread::yield();
    }
  }

  void check_call(ncclResult_t result, const char* operation) {
    if (result == ncclSuccess) return;
    std::string text = absl::StrCat(operation, ": NCCL: ", ncclGetErrorString(result));
    if (comm_ != nullptr) {
      absl::StrAppend(&text, " (", ncclGetLastError(comm_), ")");
      ncclCommAbort(comm_);  // frees it too; peers that wait for this rank see the loss
      comm_ = nullptr;
    }
    throw CommunicationError(text);
  }

  int rank_;
  int world_size_;
  int device_;
  std::unique_ptr<DeviceResources> resources_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host, int device) {
  return std::make_unique<NcclCommunicator>(host, device);
}

bool nccl_available() {
  return true;
}

int nccl_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace emoe::worker
