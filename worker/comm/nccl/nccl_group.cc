#include "worker/comm/nccl/nccl_group.h"

#include <cstdlib>
#include <cstring>
#include <exception>
#include <thread>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/log.h"
#include "worker/comm/nccl/nccl_functions.h"
#include "worker/device/cuda/cuda_device.h"

namespace emoe::worker {
namespace {

const NcclFunctions& library() {
  static const auto* functions =
      static_cast<const NcclFunctions*>(cuda::table(kNcclEntry, cuda::kModuleVersion));
  return *functions;
}

void check_cuda(cudaError_t code, const char* operation) {
  if (code == cudaSuccess) return;
  throw CommunicationError(absl::StrCat(operation, ": CUDA: ", library().cudaGetErrorString(code)));
}

using Stream = std::shared_ptr<CUstream_st>;
using Event = std::shared_ptr<CUevent_st>;

Stream make_stream(int device) {
  check_cuda(library().cudaSetDevice(device), "cudaSetDevice");
  cudaStream_t stream = nullptr;
  check_cuda(library().cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking),
             "cudaStreamCreate");
  return {stream, library().cudaStreamDestroy};
}

// An event that comes when all that is on `stream` at this moment is done.
Event record(cudaStream_t stream, const char* operation) {
  cudaEvent_t raw = nullptr;
  check_cuda(library().cudaEventCreateWithFlags(&raw, cudaEventDisableTiming), operation);
  Event event(raw, library().cudaEventDestroy);
  check_cuda(library().cudaEventRecord(raw, stream), operation);
  return event;
}

// Where LibTorch's kernels go; the default stream where its CUDA part is not loaded.
cudaStream_t compute_stream(int device) {
  return static_cast<cudaStream_t>(
      cuda::current_stream(at::Device(at::kCUDA, static_cast<at::DeviceIndex>(device))));
}

ncclDataType_t type_of(at::ScalarType type) {
  if (type == at::kFloat) return ncclFloat32;
  if (type == at::kDouble) return ncclFloat64;
  if (type == at::kBFloat16) return ncclBfloat16;
  if (type == at::kHalf) return ncclFloat16;
  return type == at::kLong ? ncclInt64 : ncclUint8;
}

// Calls return at once, so that a peer that never comes can be reported.
ncclConfig_t non_blocking() {
  ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
  config.blocking = 0;
  return config;
}

class NcclGroup final : public DeviceGroup {
 public:
  NcclGroup(std::shared_ptr<CollectiveCounters> counters, const NcclOptions& options)
      : DeviceGroup(std::move(counters)), options_(options), stream_(make_stream(options.device)) {}

  // ncclCommFinalize waits for the peers: only after an orderly run.
  ~NcclGroup() override {
    if (comm_ == nullptr) return;
    library().cudaSetDevice(options_.device);
    if (unfinished_ > 0 || std::uncaught_exceptions() > exceptions_at_start_) {
      library().ncclCommAbort(comm_);
      return;
    }
    try {
      settle(library().ncclCommFinalize(comm_), "ncclCommFinalize");
      library().ncclCommDestroy(comm_);
    } catch (const CommunicationError& error) {
      log_warning("closing the NCCL group: %s", error.what());
    }
  }

  void join(HostGroup& host) {
    setenv("NCCL_NVLS_ENABLE", "0", /*overwrite=*/0);
    ncclUniqueId id{};
    if (host.rank() == 0) check_call(library().ncclGetUniqueId(&id), "ncclGetUniqueId");
    const std::string text =
        host.broadcast(std::string(reinterpret_cast<const char*>(&id), sizeof id), 0);
    std::memcpy(&id, text.data(), sizeof id);
    ncclConfig_t config = non_blocking();
    settle(library().ncclCommInitRankConfig(&comm_, host.world_size(), id, host.rank(), &config),
           "ncclCommInitRank");
    find_place();
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }

 private:
  std::function<void()> start(const Operation& operation) override {
    const char* name = to_string(operation.kind);
    check_usable(name);
    EMOE_CHECK(operation.in.is_cuda() && operation.in.get_device() == options_.device);
    check_cuda(library().cudaSetDevice(options_.device), name);
    const Event inputs = record(compute_stream(options_.device), name);
    check_cuda(library().cudaStreamWaitEvent(stream_.get(), inputs.get(), 0), name);
    ++unfinished_;
    settle(enqueue(operation), name);
    const Event done = record(stream_.get(), name);
    // The tensors live as long as this function: their memory is not given to others before.
    return [this, name, done, operation] { finish(done.get(), name); };
  }

  void finish(cudaEvent_t done, const char* name) {
    check_usable(name);
    check_cuda(library().cudaSetDevice(options_.device), name);
    check_cuda(library().cudaStreamWaitEvent(compute_stream(options_.device), done, 0), name);
    wait_until(name, [&] {
      const cudaError_t state = library().cudaEventQuery(done);
      if (state == cudaSuccess) return true;
      if (state != cudaErrorNotReady) check_cuda(state, name);
      (void)library_is_idle(name);  // throws where a peer is known to be lost
      return false;
    });
    --unfinished_;
  }

  std::unique_ptr<DeviceGroup> make_split(int color, int key) override {
    check_usable("split");
    auto part = std::make_unique<NcclGroup>(counters(), options_);
    ncclConfig_t config = non_blocking();
    settle(library().ncclCommSplit(comm_, color, key, &part->comm_, &config), "ncclCommSplit");
    part->settle(ncclSuccess, "ncclCommSplit");
    part->find_place();
    return part;
  }

  ncclResult_t enqueue(const Operation& operation) {
    const void* in = operation.in.data_ptr();
    void* out = operation.out.data_ptr();
    const auto in_count = static_cast<size_t>(operation.in.numel());
    const auto out_count = static_cast<size_t>(operation.out.numel());
    const ncclDataType_t type = type_of(operation.in.scalar_type());
    cudaStream_t stream = stream_.get();
    switch (operation.kind) {
      case CollectiveKind::all_reduce:
        return library().ncclAllReduce(in, out, out_count, type, ncclSum, comm_, stream);
      case CollectiveKind::reduce_scatter:
        return library().ncclReduceScatter(in, out, out_count, type, ncclSum, comm_, stream);
      case CollectiveKind::all_gather:
        return library().ncclAllGather(in, out, in_count, type, comm_, stream);
      default:
        return library().ncclBroadcast(in, out, in_count, type, operation.root, comm_, stream);
    }
  }

  void check_usable(const char* operation) const {
    if (comm_ != nullptr) return;
    throw CommunicationError(absl::StrCat(operation, ": the NCCL group was aborted"));
  }

  void find_place() {
    check_call(library().ncclCommUserRank(comm_, &rank_), "ncclCommUserRank");
    check_call(library().ncclCommCount(comm_, &world_size_), "ncclCommCount");
  }

  // Until the library has done what it was told (start-up, or putting a kernel on the stream).
  void settle(ncclResult_t result, const char* operation) {
    if (result != ncclInProgress) check_call(result, operation);
    wait_until(operation, [&] { return library_is_idle(operation); });
  }

  bool library_is_idle(const char* operation) {
    ncclResult_t state = ncclSuccess;
    check_call(library().ncclCommGetAsyncError(comm_, &state), operation);
    if (state == ncclInProgress) return false;
    check_call(state, operation);
    return true;
  }

  // A peer on the same host that is gone is no error to NCCL: its memory stays as it was, and the
  // kernel waits for it for ever.
  template <typename Finished>
  void wait_until(const char* operation, Finished finished) {
    using Clock = std::chrono::steady_clock;
    const auto start = Clock::now();
    while (!finished()) {
      const auto waited = Clock::now() - start;
      if (waited > options_.timeout) {
        abort(absl::StrCat(operation, ": not done after ", options_.timeout.count(),
                           " s: another rank is lost or stuck"));
      }
      if (waited < std::chrono::milliseconds(1)) {
        std::this_thread::yield();
      } else {
        std::this_thread::sleep_for(std::chrono::microseconds(50));
      }
    }
  }

  void check_call(ncclResult_t result, const char* operation) {
    if (result == ncclSuccess) return;
    std::string text = absl::StrCat(operation, ": NCCL: ", library().ncclGetErrorString(result));
    if (comm_ != nullptr) absl::StrAppend(&text, " (", library().ncclGetLastError(comm_), ")");
    abort(text);
  }

  [[noreturn]] void abort(const std::string& text) {
    // Ends the kernels too, and frees the communicator; peers that wait for this rank see the loss.
    if (comm_ != nullptr) library().ncclCommAbort(comm_);
    comm_ = nullptr;
    throw CommunicationError(text);
  }

  NcclOptions options_;
  Stream stream_;
  ncclComm_t comm_ = nullptr;
  int rank_ = 0;
  int world_size_ = 1;
  int unfinished_ = 0;  // collectives started and not yet waited for
  int exceptions_at_start_ = std::uncaught_exceptions();
};

}  // namespace

std::unique_ptr<DeviceGroup> make_nccl_group(HostGroup& host, const NcclOptions& options) {
  auto group = std::make_unique<NcclGroup>(host.counters(), options);
  group->join(host);
  return group;
}

}  // namespace emoe::worker
