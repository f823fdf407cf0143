#include "tests/worker/comm/fake_gpu.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <ATen/ATen.h>
#include <cuda_runtime_api.h>
#include <nccl.h>

namespace {

std::atomic<int> objects{0};
std::atomic<bool> peers_are_told{false};

struct Counted {
  Counted() { ++objects; }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;
  ~Counted() { --objects; }
};

struct FakeStream : Counted {
  std::mutex mutex;
  std::condition_variable_any changed;
  std::deque<std::function<void()>> queue;
  std::jthread thread{[this](const std::stop_token& stop) { run(stop); }};

  void push(std::function<void()> work) {
    const std::lock_guard lock(mutex);
    queue.push_back(std::move(work));
    changed.notify_all();
  }
  void run(const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    while (changed.wait(lock, stop, [&] { return !queue.empty(); })) {
      const auto work = std::move(queue.front());
      queue.pop_front();
      lock.unlock();
      work();
      lock.lock();
    }
  }
};

struct FakeEvent : Counted {
  std::shared_ptr<std::atomic<bool>> done;
};

FakeStream* of(cudaStream_t stream) {
  return reinterpret_cast<FakeStream*>(stream);
}
FakeEvent* of(cudaEvent_t event) {
  return reinterpret_cast<FakeEvent*>(event);
}

// What a rank hands to a collective; the input is copied when its kernel starts.
struct Call {
  enum class Kind { all_reduce, reduce_scatter, all_gather, broadcast } kind;
  const void* in;
  void* out;
  size_t in_bytes;
  size_t out_bytes;
  at::ScalarType type;
  int root = 0;
};

// The ranks of one communicator.
struct Ranks {
  explicit Ranks(int ranks) : size(ranks) {}

  int size;
  std::mutex mutex;
  std::condition_variable changed;
  int joined = 0;
  int finalized = 0;
  std::atomic<bool> someone_aborted{false};
  std::map<int64_t, std::map<int, std::string>> inputs;             // sequence, rank
  std::map<int64_t, std::map<int, std::array<int, 3>>> splits;      // color, key, rank
  std::map<std::pair<int64_t, int>, std::shared_ptr<Ranks>> parts;  // sequence, color
};

at::Tensor tensor_of(const std::string& bytes, at::ScalarType type) {
  const auto count = static_cast<int64_t>(bytes.size() / at::elementSize(type));
  return at::from_blob(const_cast<char*>(bytes.data()), {count}, type);
}

std::string result_of(const Call& call, const std::map<int, std::string>& inputs, int rank) {
  if (call.kind == Call::Kind::broadcast) return inputs.at(call.root);
  std::string all;
  for (const auto& [other, bytes] : inputs) all += bytes;
  if (call.kind == Call::Kind::all_gather) return all;
  at::Tensor sum = tensor_of(inputs.at(0), call.type).clone();
  for (size_t r = 1; r < inputs.size(); ++r) {
    sum = sum + tensor_of(inputs.at(static_cast<int>(r)), call.type);
  }
  const std::string bytes(static_cast<const char*>(sum.const_data_ptr()), sum.nbytes());
  if (call.kind == Call::Kind::all_reduce) return bytes;
  return bytes.substr(call.out_bytes * static_cast<size_t>(rank), call.out_bytes);
}

// A rank's place, also seen by its kernels.
struct Place {
  std::shared_ptr<Ranks> ranks;
  int rank = 0;
  std::atomic<bool> aborted{false};
};

void run_kernel(const std::shared_ptr<Place>& place, int64_t sequence, const Call& call) {
  Ranks& ranks = *place->ranks;
  std::unique_lock lock(ranks.mutex);
  if (place->aborted) return;  // the caller has its memory back
  auto& inputs = ranks.inputs[sequence];
  inputs[place->rank] = std::string(static_cast<const char*>(call.in), call.in_bytes);
  ranks.changed.notify_all();
  ranks.changed.wait(
      lock, [&] { return place->aborted || inputs.size() == static_cast<size_t>(ranks.size); });
  if (place->aborted) return;
  const std::string result = result_of(call, inputs, place->rank);
  if (!result.empty()) std::memcpy(call.out, result.data(), result.size());  // null: no elements
}

at::ScalarType type_of(ncclDataType_t type) {
  switch (type) {
    case ncclFloat32:
      return at::kFloat;
    case ncclFloat64:
      return at::kDouble;
    case ncclBfloat16:
      return at::kBFloat16;
    case ncclFloat16:
      return at::kHalf;
    case ncclInt64:
      return at::kLong;
    default:
      return at::kByte;
  }
}

}  // namespace

struct ncclComm : Counted {
  std::shared_ptr<Place> place = std::make_shared<Place>();
  int64_t sequence = 0;
  int polls_left = 0;
  std::function<bool()> ready;  // empty: nothing in progress

  ncclResult_t begin(std::function<bool()> when) {
    if (ready) return ncclInvalidUsage;
    ready = std::move(when);
    polls_left = 2;
    return ncclInProgress;
  }
  ncclResult_t poll() {
    Ranks& ranks = *place->ranks;
    if (ranks.someone_aborted && peers_are_told) return ncclRemoteError;
    if (!ready) return ncclSuccess;
    const std::lock_guard lock(ranks.mutex);
    if (polls_left-- > 0 || !ready()) return ncclInProgress;
    ready = nullptr;
    return ncclSuccess;
  }
  ncclResult_t collective(Call::Kind kind, const void* in, size_t in_count, void* out,
                          size_t out_count, ncclDataType_t type, cudaStream_t stream,
                          int root = 0) {
    const ncclResult_t begun = begin([] { return true; });
    if (begun != ncclInProgress) return begun;
    const at::ScalarType element = type_of(type);
    const size_t bytes = at::elementSize(element);
    const Call call{kind, in, out, in_count * bytes, out_count * bytes, element, root};
    of(stream)->push(
        [place = place, number = sequence++, call] { run_kernel(place, number, call); });
    return ncclInProgress;
  }
};

namespace {

std::mutex worlds_mutex;
std::map<std::string, std::shared_ptr<Ranks>> worlds;
int world_number = 0;

// Under the lock of the parent's ranks.
ncclComm* part_of(ncclComm& comm, int64_t sequence, int color) {
  Ranks& ranks = *comm.place->ranks;
  std::vector<std::array<int, 3>> members;
  for (const auto& [rank, wish] : ranks.splits[sequence]) {
    if (wish[0] == color) members.push_back(wish);
  }
  std::sort(members.begin(), members.end());
  auto& part = ranks.parts[{sequence, color}];
  if (!part) part = std::make_shared<Ranks>(static_cast<int>(members.size()));
  const auto mine = std::find_if(members.begin(), members.end(),
                                 [&](const auto& wish) { return wish[2] == comm.place->rank; });
  auto* result = new ncclComm;
  result->place->ranks = part;
  result->place->rank = static_cast<int>(mine - members.begin());
  (void)result->begin([] { return true; });
  return result;
}

}  // namespace

extern "C" {

const char* cudaGetErrorString(cudaError_t) {
  return "an error of the stand-in";
}
cudaError_t cudaSetDevice(int) {
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = reinterpret_cast<cudaStream_t>(new FakeStream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  delete of(stream);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = reinterpret_cast<cudaEvent_t>(new FakeEvent);
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete of(event);
  return cudaSuccess;
}
// The default stream, where tests compute, is the calling thread.
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  auto done = std::make_shared<std::atomic<bool>>(stream == nullptr);
  of(event)->done = done;
  if (stream != nullptr) of(stream)->push([done] { *done = true; });
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (stream == nullptr) return cudaSuccess;
  of(stream)->push([done = of(event)->done] {
    while (!*done) std::this_thread::yield();
  });
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  return *of(event)->done ? cudaSuccess : cudaErrorNotReady;
}

const char* ncclGetErrorString(ncclResult_t result) {
  return result == ncclRemoteError ? "remote error" : "invalid usage";
}
const char* ncclGetLastError(ncclComm_t) {
  return "the stand-in";
}
ncclResult_t ncclGetUniqueId(ncclUniqueId* id) {
  const std::lock_guard lock(worlds_mutex);
  *id = {};
  std::snprintf(id->internal, sizeof id->internal, "world %d", world_number++);
  return ncclSuccess;
}
ncclResult_t ncclCommInitRankConfig(ncclComm_t* comm, int size, ncclUniqueId id, int rank,
                                    ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;
  *comm = new ncclComm;
  const std::lock_guard lock(worlds_mutex);
  auto& ranks = worlds[id.internal];
  if (!ranks) ranks = std::make_shared<Ranks>(size);
  (*comm)->place->ranks = ranks;
  (*comm)->place->rank = rank;
  const std::lock_guard ranks_lock(ranks->mutex);
  ++ranks->joined;
  return (*comm)->begin([ranks = ranks] { return ranks->joined == ranks->size; });
}
ncclResult_t ncclCommGetAsyncError(ncclComm_t comm, ncclResult_t* state) {
  *state = comm->poll();
  return ncclSuccess;
}
ncclResult_t ncclCommFinalize(ncclComm_t comm) {
  const auto ranks = comm->place->ranks;
  const std::lock_guard lock(ranks->mutex);
  ++ranks->finalized;
  return comm->begin([ranks] { return ranks->finalized == ranks->size; });
}
ncclResult_t ncclCommDestroy(ncclComm_t comm) {
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommAbort(ncclComm_t comm) {
  {
    const std::lock_guard lock(comm->place->ranks->mutex);
    comm->place->aborted = true;
    comm->place->ranks->someone_aborted = true;
    comm->place->ranks->changed.notify_all();
  }
  delete comm;
  return ncclSuccess;
}
ncclResult_t ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t* part,
                           ncclConfig_t* config) {
  if (config->blocking != 0) return ncclInvalidUsage;
  const auto ranks = comm->place->ranks;
  const int64_t sequence = comm->sequence++;
  {
    const std::lock_guard lock(ranks->mutex);
    ranks->splits[sequence][comm->place->rank] = {color, key, comm->place->rank};
  }
  return comm->begin([=] {
    if (ranks->splits[sequence].size() < static_cast<size_t>(ranks->size)) return false;
    *part = part_of(*comm, sequence, color);
    return true;
  });
}
ncclResult_t ncclCommCount(const ncclComm_t comm, int* count) {
  *count = comm->place->ranks->size;
  return ncclSuccess;
}
ncclResult_t ncclCommUserRank(const ncclComm_t comm, int* rank) {
  *rank = comm->place->rank;
  return ncclSuccess;
}
ncclResult_t ncclAllReduce(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) return ncclInvalidArgument;
  return comm->collective(Call::Kind::all_reduce, in, count, out, count, type, stream);
}
ncclResult_t ncclReduceScatter(const void* in, void* out, size_t count, ncclDataType_t type,
                               ncclRedOp_t op, ncclComm_t comm, cudaStream_t stream) {
  if (op != ncclSum) return ncclInvalidArgument;
  const auto size = static_cast<size_t>(comm->place->ranks->size);
  return comm->collective(Call::Kind::reduce_scatter, in, count * size, out, count, type, stream);
}
ncclResult_t ncclAllGather(const void* in, void* out, size_t count, ncclDataType_t type,
                           ncclComm_t comm, cudaStream_t stream) {
  const auto size = static_cast<size_t>(comm->place->ranks->size);
  return comm->collective(Call::Kind::all_gather, in, count, out, count * size, type, stream);
}
ncclResult_t ncclBroadcast(const void* in, void* out, size_t count, ncclDataType_t type, int root,
                           ncclComm_t comm, cudaStream_t stream) {
  return comm->collective(Call::Kind::broadcast, in, count, out, count, type, stream, root);
}

}  // extern "C"

namespace emoe::worker::testing {

int fake_gpu_objects() {
  return objects;
}

void tell_peers_of_aborts(bool yes) {
  peers_are_told = yes;
}

at::Tensor to_fake_gpu(const at::Tensor& tensor, at::Device gpu) {
  const at::Tensor own = tensor.clone(at::MemoryFormat::Contiguous);
  return at::from_blob(
      own.data_ptr(), own.sizes(), [own](void*) {},
      at::TensorOptions(own.scalar_type()).device(gpu), gpu);
}

at::Tensor from_fake_gpu(const at::Tensor& tensor) {
  return at::from_blob(tensor.data_ptr(), tensor.sizes(), tensor.scalar_type()).clone();
}

}  // namespace emoe::worker::testing
