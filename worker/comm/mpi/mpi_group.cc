#include "worker/comm/mpi/mpi_group.h"

#include <algorithm>
#include <chrono>
#include <exception>
#include <thread>

#include <mpi.h>

#include "base/check.h"
#include "worker/comm/mpi/mpi_session.h"

namespace emoe::worker {
namespace {

MPI_Datatype type_of(Number number) {
  switch (number) {
    case Number::float32:
      return MPI_FLOAT;
    case Number::float64:
      return MPI_DOUBLE;
    case Number::int64:
      return MPI_INT64_T;
  }
  return MPI_DATATYPE_NULL;
}

class MpiTransport final : public Transport {
 public:
  // Takes `comm` over.
  MpiTransport(MPI_Comm comm, size_t max_count) : comm_(comm), max_count_(max_count) {
    EMOE_CHECK(max_count >= 1 && max_count <= kMaxMpiCount);
    check(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check(MPI_Comm_size(comm_, &world_size_), "MPI_Comm_size");
  }
  // MPI_Comm_free is a collective and could wait for a lost rank: only after an orderly run.
  ~MpiTransport() override {
    if (!failed_ && std::uncaught_exceptions() == exceptions_at_start_) MPI_Comm_free(&comm_);
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }

  void all_reduce(CollectiveKind kind, void* data, size_t count, Number number) override {
    const MPI_Op op = kind == CollectiveKind::all_reduce_max ? MPI_MAX : MPI_SUM;
    wait_for_all();
    for_pieces(count, [&](size_t begin, int piece) {
      auto* place = static_cast<std::byte*>(data) + begin * size_of(number);
      check(MPI_Allreduce(MPI_IN_PLACE, place, piece, type_of(number), op, comm_), to_string(kind));
    });
  }

  void reduce_scatter(const void* in, void* out, size_t count, Number number) override {
    const MPI_Datatype type = type_of(number);
    wait_for_all();
    if (count <= max_count_) {
      check(MPI_Reduce_scatter_block(in, out, static_cast<int>(count), type, MPI_SUM, comm_),
            "reduce_scatter");
      return;
    }
    for (int r = 0; r < world_size_; ++r) {
      for_pieces(count, [&](size_t begin, int piece) {
        const size_t block = static_cast<size_t>(r) * count;
        const auto* from = static_cast<const std::byte*>(in) + (block + begin) * size_of(number);
        auto* into = static_cast<std::byte*>(out) + begin * size_of(number);
        check(MPI_Reduce(from, into, piece, type, MPI_SUM, r, comm_), "reduce_scatter");
      });
    }
  }

  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size_);
    wait_for_all();
    for_pieces(buffer.size(), [&](size_t begin, int count) {
      check(MPI_Bcast(buffer.data() + begin, count, MPI_BYTE, root, comm_), "broadcast");
    });
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    EMOE_CHECK(all.size() == mine.size() * static_cast<size_t>(world_size_));
    wait_for_all();
    if (mine.size() <= max_count_) {
      const auto count = static_cast<int>(mine.size());
      check(MPI_Allgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE, comm_),
            "all_gather");
      return;
    }
    for (int r = 0; r < world_size_; ++r) {
      const auto part = all.subspan(static_cast<size_t>(r) * mine.size(), mine.size());
      if (r == rank_) std::copy(mine.begin(), mine.end(), part.begin());
      broadcast(part, r);
    }
  }

  void barrier() override { wait_for_all(); }

  std::shared_ptr<Transport> split(int color, int key) override {
    wait_for_all();
    MPI_Comm part = MPI_COMM_NULL;
    check(MPI_Comm_split(comm_, color, key, &part), "MPI_Comm_split");
    return std::make_shared<MpiTransport>(part, max_count_);
  }

 private:
  // Until every rank is here. MPI waits by asking without a pause, which takes the core away from a
  // rank or another program that needs it; so the ranks come together first, asking ever more
  // rarely, and then wait for nobody inside the collective itself.
  void wait_for_all() {
    constexpr std::chrono::microseconds kShort{50};  // what waking up takes anyway
    constexpr std::chrono::microseconds kLongestPause{1000};
    MPI_Request request = MPI_REQUEST_NULL;
    check(MPI_Ibarrier(comm_, &request), "barrier");
    const auto begin = std::chrono::steady_clock::now();
    for (int all_here = 0;;) {
      check(MPI_Test(&request, &all_here, MPI_STATUS_IGNORE), "barrier");
      if (all_here != 0) return;
      const auto waited = std::chrono::steady_clock::now() - begin;
      if (waited < kShort) continue;
      std::this_thread::sleep_for(std::min<std::chrono::nanoseconds>(waited / 10, kLongestPause));
    }
  }

  void check(int code, const char* operation) {
    failed_ = failed_ || code != MPI_SUCCESS;
    check_mpi(code, operation);
  }

  template <typename Body>
  void for_pieces(size_t size, Body body) const {
    for (size_t begin = 0; begin < size; begin += max_count_) {
      body(begin, static_cast<int>(std::min(max_count_, size - begin)));
    }
  }

  MPI_Comm comm_;
  size_t max_count_;
  int rank_ = 0;
  int world_size_ = 1;
  bool failed_ = false;
  int exceptions_at_start_ = std::uncaught_exceptions();
};

}  // namespace

std::unique_ptr<HostGroup> make_mpi_group(std::shared_ptr<CollectiveCounters> counters,
                                          size_t max_count) {
  MPI_Comm world = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &world), "MPI_Comm_dup");
  return std::make_unique<HostGroup>(std::make_shared<MpiTransport>(world, max_count),
                                     std::move(counters));
}

}  // namespace emoe::worker
