#include "worker/comm/nccl/nccl_communicator.h"

#include <exception>
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

// Stream, event and a few bytes of device memory; what there is of them is released, also where the
// constructor throws half-way (the object exists once the constructor it delegates to is done).
class DeviceResources {
 public:
  explicit DeviceResources(int device) : DeviceResources() {
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

 private:
  DeviceResources() = default;
};

class NcclCommunicator final : public Communicator {
 public:
  NcclCommunicator(Communicator& host, const NcclOptions& options)
      : Communicator(CountedWith{host}),
        rank_(host.rank()),
        world_size_(host.world_size()),
        options_(options),
        resources_(options.device) {
    ncclUniqueId id{};
    if (rank_ == 0) check_call(ncclGetUniqueId(&id), "ncclGetUniqueId");
    host.broadcast(std::as_writable_bytes(std::span(&id, 1)), 0);
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;  // calls return at once: a peer that never comes can be reported
    const ncclResult_t result = ncclCommInitRankConfig(&comm_, world_size_, id, rank_, &config);
    if (result != ncclInProgress) check_call(result, "ncclCommInitRank");
    wait_for_library("ncclCommInitRank");
  }

  // ncclCommFinalize waits for the peers: only after an orderly run.
  ~NcclCommunicator() override {
    if (comm_ == nullptr) return;
    cudaSetDevice(options_.device);
    const bool orderly = counters().started == counters().completed &&
                         std::uncaught_exceptions() == exceptions_at_start_;
    try {
      if (orderly) {
        const ncclResult_t result = ncclCommFinalize(comm_);
        if (result != ncclInProgress) check_call(result, "ncclCommFinalize");
        wait_for_library("ncclCommFinalize");
        ncclCommDestroy(comm_);
      } else {
        ncclCommAbort(comm_);
      }
    } catch (const CommunicationError& error) {
      log_warning("closing the NCCL communicator: %s", error.what());
    }
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }
  [[nodiscard]] std::string name() const override { return "nccl"; }

  void all_reduce_sum(std::span<float> buffer) override {
    run(CollectiveKind::all_reduce, buffer.size_bytes(),
        [&] { return reduce(buffer, ncclFloat32, ncclSum); });
  }
  void all_reduce_sum(std::span<double> buffer) override {
    run(CollectiveKind::all_reduce, buffer.size_bytes(),
        [&] { return reduce(buffer, ncclFloat64, ncclSum); });
  }
  void all_reduce_max(std::span<double> buffer) override {
    run(CollectiveKind::all_reduce_max, buffer.size_bytes(),
        [&] { return reduce(buffer, ncclFloat64, ncclMax); });
  }
  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size_);
    run(CollectiveKind::broadcast, buffer.size(), [&] {
      return ncclBroadcast(buffer.data(), buffer.data(), buffer.size(), ncclUint8, root, comm_,
                           resources_.stream);
    });
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    EMOE_CHECK(out.size() == mine.size() * static_cast<size_t>(world_size_));
    run(CollectiveKind::all_gather, out.size(), [&] {
      return ncclAllGather(mine.data(), out.data(), mine.size(), ncclUint8, comm_,
                           resources_.stream);
    });
  }
  void barrier() override {
    run(CollectiveKind::barrier, 0,
        [&] { return reduce(std::span<float>(resources_.scratch, 1), ncclFloat32, ncclSum); });
  }

 private:
  template <typename T>
  ncclResult_t reduce(std::span<T> buffer, ncclDataType_t type, ncclRedOp_t op) {
    return ncclAllReduce(buffer.data(), buffer.data(), buffer.size(), type, op, comm_,
                         resources_.stream);
  }

  template <typename Enqueue>
  void run(CollectiveKind kind, size_t bytes, Enqueue enqueue) {
    const char* operation = to_string(kind);
    if (comm_ == nullptr) {
      throw CommunicationError(absl::StrCat(operation, ": the communicator was aborted"));
    }
    Collective collective(*this, kind, bytes);
    check_cuda(cudaSetDevice(options_.device), operation);
    check_cuda(cudaEventRecord(resources_.event, nullptr), operation);
    check_cuda(cudaStreamWaitEvent(resources_.stream, resources_.event, 0), operation);
    const ncclResult_t result = enqueue();
    if (result != ncclInProgress) check_call(result, operation);
    wait_for_library(operation);
    wait_until(operation, [&] {
      const cudaError_t state = cudaStreamQuery(resources_.stream);
      if (state == cudaSuccess) return true;
      if (state != cudaErrorNotReady) check_cuda(state, operation);
      (void)library_is_idle(operation);  // throws where a peer is known to be lost
      return false;
    });
    collective.done();
  }

  // Until the library has done what it was told (start-up, or putting the kernel on the stream).
  void wait_for_library(const char* operation) {
    wait_until(operation, [&] { return library_is_idle(operation); });
  }

  bool library_is_idle(const char* operation) {
    ncclResult_t state = ncclSuccess;
    check_call(ncclCommGetAsyncError(comm_, &state), operation);
    if (state == ncclInProgress) return false;
    check_call(state, operation);
    return true;
  }

  // A peer on the same host that is gone is no error to NCCL: its memory stays as it was, and the
  // kernel waits for it for ever.
  template <typename Finished>
  void wait_until(const char* operation, Finished finished) {
    const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
    while (!finished()) {
      if (std::chrono::steady_clock::now() > deadline) {
        abort(absl::StrCat(operation, ": not done after ", options_.timeout.count(),
                           " s: another rank is lost or stuck"));
      }
      std::this_thread::yield();
    }
  }

  void check_call(ncclResult_t result, const char* operation) {
    if (result == ncclSuccess) return;
    std::string text = absl::StrCat(operation, ": NCCL: ", ncclGetErrorString(result));
    if (comm_ != nullptr) absl::StrAppend(&text, " (", ncclGetLastError(comm_), ")");
    abort(text);
  }

  [[noreturn]] void abort(const std::string& text) {
    // Ends the kernels too, and frees the communicator; peers that wait for this rank see the loss.
    if (comm_ != nullptr) ncclCommAbort(comm_);
    comm_ = nullptr;
    throw CommunicationError(text);
  }

  int rank_;
  int world_size_;
  NcclOptions options_;
  int exceptions_at_start_ = std::uncaught_exceptions();
  DeviceResources resources_;
  ncclComm_t comm_ = nullptr;
};

}  // namespace

std::unique_ptr<Communicator> make_nccl_communicator(Communicator& host,
                                                     const NcclOptions& options) {
  return std::make_unique<NcclCommunicator>(host, options);
}

bool nccl_available() {
  return true;
}

int nccl_device_count() {
  int count = 0;
  return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
}

}  // namespace emoe::worker
