#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <stdexcept>
#include <string>

namespace emoe::worker {

// What a rank is doing in its collectives, read by the heartbeat thread while the step loop runs.
// In a hang the rank whose `started` is lowest never arrived; those with started > completed wait
// for it.
struct CollectiveCounters {
  std::atomic<int64_t> started{0};
  std::atomic<int64_t> completed{0};
  std::atomic<const char*> operation{""};  // a literal: "all_reduce", … ; "" between collectives
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

  [[nodiscard]] const CollectiveCounters& counters() const { return counters_; }

 protected:
  // Counts one collective: started when made, completed by done(). One left by an exception stays
  // started, which is what happened.
  class Collective {
   public:
    Collective(CollectiveCounters& counters, const char* operation) : counters_(counters) {
      counters_.operation.store(operation, std::memory_order_relaxed);
      counters_.started.fetch_add(1, std::memory_order_release);
    }
    void done() {
      counters_.completed.fetch_add(1, std::memory_order_release);
      counters_.operation.store("", std::memory_order_relaxed);
    }

   private:
    CollectiveCounters& counters_;
  };

  CollectiveCounters counters_;
};

}  // namespace emoe::worker
