#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace emoe::worker {

// The kinds of collectives, in heartbeats, metrics and messages.
enum class CollectiveKind { all_reduce, all_reduce_max, broadcast, all_gather, barrier };
inline constexpr std::array<const char*, 5> kCollectiveNames = {
    "all_reduce", "all_reduce_max", "broadcast", "all_gather", "barrier"};
[[nodiscard]] constexpr const char* to_string(CollectiveKind kind) {
  return kCollectiveNames[static_cast<size_t>(kind)];
}

// What a rank is doing in its collectives, read by other threads (heartbeats, metrics) while the
// step loop runs. In a hang the rank whose `started` is lowest never arrived; those with started >
// completed wait for it.
struct CollectiveCounters {
  // Of the completed collectives of one kind: how many, their time (waiting for the others
  // included), and the bytes of the buffer that each left its result in (all_gather: all ranks'
  // parts; barrier: 0).
  struct Totals {
    std::atomic<int64_t> calls{0};
    std::atomic<int64_t> bytes{0};
    std::atomic<int64_t> nanoseconds{0};
  };
  std::atomic<int64_t> started{0};
  std::atomic<int64_t> completed{0};
  std::atomic<const char*> operation{""};  // a literal: "all_reduce", … ; "" between collectives
  std::array<Totals, kCollectiveNames.size()> totals;

  [[nodiscard]] const Totals& of(CollectiveKind kind) const {
    return totals[static_cast<size_t>(kind)];
  }
};

// A collective failed: a peer is gone, the library reported an error, or the ranks disagree about
// what they are doing. The group is unusable; the rank ends with exit code 71.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// The ranks of one job as a group. Every rank calls the same methods in the same order (a
// collective); a rank that stays away blocks the others, which is what the counters are for.
//
// Threads: one caller at a time per rank; counters() from any thread.
// Errors: CommunicationError (derives from std::runtime_error) with the operation and what the
// library said; after it the group is unusable and the rank must exit with code 71. Buffers are on
// the host for mpi and loopback, on the rank's device for nccl; sums are in the buffer's own type
// and, for the same number of ranks, in the same order every time (a rerun is bit-equal).
class Communicator {
 public:
  Communicator() : counters_(std::make_shared<CollectiveCounters>()) {}
  Communicator(const Communicator&) = delete;
  Communicator& operator=(const Communicator&) = delete;
  virtual ~Communicator() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world_size() const = 0;
  virtual void all_reduce_sum(std::span<float> buffer) = 0;
  virtual void all_reduce_sum(std::span<double> buffer) = 0;
  virtual void all_reduce_max(std::span<double> buffer) = 0;
  virtual void broadcast(std::span<std::byte> buffer, int root) = 0;
  // Every rank's `size` bytes, in rank order, into `out` of size world_size * mine.size().
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) = 0;
  virtual void barrier() = 0;
  [[nodiscard]] virtual std::string name() const = 0;  // "mpi" | "loopback" | "nccl"

  // Lives as long as this, or as any other group that counts into it.
  [[nodiscard]] const CollectiveCounters& counters() const { return *counters_; }

 protected:
  // One more group of the same rank, whose collectives are counted together with the first's: who
  // watches the rank sees all that it waits in.
  struct CountedWith {
    const Communicator& first;
  };
  explicit Communicator(CountedWith with) : counters_(with.first.counters_) {}

  // Counts one collective: started when made, completed by done(). One left by an exception stays
  // started, which is what happened.
  class Collective {
   public:
    Collective(Communicator& comm, CollectiveKind kind, size_t bytes)
        : counters_(*comm.counters_), kind_(kind), bytes_(bytes) {
      counters_.operation.store(to_string(kind), std::memory_order_relaxed);
      counters_.started.fetch_add(1, std::memory_order_release);
    }
    void done() {
      using std::chrono::nanoseconds;
      const auto time = std::chrono::duration_cast<nanoseconds>(Clock::now() - start_);
      CollectiveCounters::Totals& totals = counters_.totals[static_cast<size_t>(kind_)];
      totals.calls.fetch_add(1, std::memory_order_relaxed);
      totals.bytes.fetch_add(static_cast<int64_t>(bytes_), std::memory_order_relaxed);
      totals.nanoseconds.fetch_add(time.count(), std::memory_order_relaxed);
      counters_.completed.fetch_add(1, std::memory_order_release);
      counters_.operation.store("", std::memory_order_relaxed);
    }

   private:
    using Clock = std::chrono::steady_clock;
    CollectiveCounters& counters_;
    CollectiveKind kind_;
    size_t bytes_;
    Clock::time_point start_ = Clock::now();
  };

 private:
  std::shared_ptr<CollectiveCounters> counters_;
};

}  // namespace emoe::worker
