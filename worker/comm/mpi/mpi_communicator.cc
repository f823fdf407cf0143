#include "worker/comm/mpi/mpi_communicator.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include <mpi.h>

#include "base/check.h"
#include "worker/comm/mpi/mpi_error.h"

namespace emoe::worker {
namespace {

class MpiCommunicator final : public Communicator {
 public:
  explicit MpiCommunicator(size_t max_count) : max_count_(max_count) {
    EMOE_CHECK(max_count >= 1 && max_count <= kMaxMpiCount);
    check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &comm_), "MPI_Comm_dup");
    check_mpi(MPI_Comm_set_errhandler(comm_, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm_, &rank_), "MPI_Comm_rank");
    check_mpi(MPI_Comm_size(comm_, &world_size_), "MPI_Comm_size");
  }
  // MPI_Comm_free is a collective and could wait for a lost rank: only after an orderly run.
  ~MpiCommunicator() override {
    if (counters().started == counters().completed && !failed_) MPI_Comm_free(&comm_);
  }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return world_size_; }
  [[nodiscard]] std::string name() const override { return "mpi"; }

  void all_reduce_sum(std::span<float> buffer) override {
    reduce(CollectiveKind::all_reduce, buffer, MPI_FLOAT, MPI_SUM);
  }
  void all_reduce_sum(std::span<double> buffer) override {
    reduce(CollectiveKind::all_reduce, buffer, MPI_DOUBLE, MPI_SUM);
  }
  void all_reduce_max(std::span<double> buffer) override {
    reduce(CollectiveKind::all_reduce_max, buffer, MPI_DOUBLE, MPI_MAX);
  }

  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size_);
    Collective collective(*this, CollectiveKind::broadcast, buffer.size());
    for_pieces(buffer.size(), [&](size_t begin, int count) {
      check(MPI_Bcast(buffer.data() + begin, count, MPI_BYTE, root, comm_), "broadcast");
    });
    collective.done();
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    EMOE_CHECK(out.size() == mine.size() * static_cast<size_t>(world_size_));
    Collective collective(*this, CollectiveKind::all_gather, out.size());
    std::vector<std::byte> piece;
    for_pieces(mine.size(), [&](size_t begin, int count) {
      const auto bytes = static_cast<size_t>(count);
      const bool whole = bytes == mine.size();
      if (!whole) piece.resize(bytes * static_cast<size_t>(world_size_));
      std::byte* target = whole ? out.data() : piece.data();
      check(MPI_Allgather(mine.data() + begin, count, MPI_BYTE, target, count, MPI_BYTE, comm_),
            "all_gather");
      for (size_t r = 0; !whole && r < static_cast<size_t>(world_size_); ++r) {
        std::memcpy(out.data() + r * mine.size() + begin, piece.data() + r * bytes, bytes);
      }
    });
    collective.done();
  }

  void barrier() override {
    Collective collective(*this, CollectiveKind::barrier, 0);
    check(MPI_Barrier(comm_), "barrier");
    collective.done();
  }

 private:
  void check(int code, const char* operation) {
    failed_ = failed_ || code != MPI_SUCCESS;
    check_mpi(code, operation);
  }

  template <typename T>
  void reduce(CollectiveKind kind, std::span<T> buffer, MPI_Datatype type, MPI_Op op) {
    Collective collective(*this, kind, buffer.size_bytes());
    for_pieces(buffer.size(), [&](size_t begin, int count) {
      check(MPI_Allreduce(MPI_IN_PLACE, buffer.data() + begin, count, type, op, comm_),
            to_string(kind));
    });
    collective.done();
  }

  template <typename Body>
  void for_pieces(size_t size, Body body) const {
    for (size_t begin = 0; begin < size; begin += max_count_) {
      body(begin, static_cast<int>(std::min(max_count_, size - begin)));
    }
  }

  MPI_Comm comm_ = MPI_COMM_NULL;
  size_t max_count_;
  int rank_ = 0;
  int world_size_ = 1;
  bool failed_ = false;
};

}  // namespace

std::unique_ptr<Communicator> make_mpi_communicator(size_t max_count) {
  return std::make_unique<MpiCommunicator>(max_count);
}

}  // namespace emoe::worker
