#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>

namespace emoe::worker {

// The kinds of collectives, in heartbeats, metrics and messages.
enum class CollectiveKind {
  all_reduce,
  all_reduce_max,
  reduce_scatter,
  broadcast,
  all_gather,
  barrier,
  split
};
inline constexpr std::array<const char*, 7> kCollectiveNames = {
    "all_reduce", "all_reduce_max", "reduce_scatter", "broadcast",
    "all_gather", "barrier",        "split"};
[[nodiscard]] constexpr const char* to_string(CollectiveKind kind) {
  return kCollectiveNames[static_cast<size_t>(kind)];
}

// A collective failed: a peer is gone, the library reported an error, or the ranks disagree about
// what they are doing. The group is unusable; the rank ends with exit code 71.
class CommunicationError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A rank's progress in the collectives of all its groups, for other threads (heartbeats, metrics) to
// read while the step loop runs. In a hang the rank with the lowest `started` never arrived; ranks
// inside an `operation` wait for it.
struct CollectiveCounters {
  // Of the completed collectives of one kind: the bytes of the buffers that hold the results
  // (all_gather: all ranks' parts; barrier, split: 0), and the time spent in their calls, waiting
  // for other ranks included.
  struct Totals {
    std::atomic<int64_t> bytes{0};
    std::atomic<int64_t> nanoseconds{0};
  };
  std::atomic<int64_t> started{0};         // an operation that returns a Work: at the call
  std::atomic<int64_t> completed{0};       // and completed by its wait()
  std::atomic<const char*> operation{""};  // a literal: "all_reduce", … ; "" outside of collectives
  std::array<Totals, kCollectiveNames.size()> totals;

  [[nodiscard]] const Totals& of(CollectiveKind kind) const {
    return totals[static_cast<size_t>(kind)];
  }
};

// Counts one collective of one thread: started when made, completed by done(). One that an
// exception ends stays started, as does one that hangs.
class CountedCollective {
 public:
  CountedCollective(std::shared_ptr<CollectiveCounters> counters, CollectiveKind kind)
      : counters_(std::move(counters)), kind_(kind) {
    enter();  // who sees it started sees what it is
    counters_->started.fetch_add(1, std::memory_order_release);
  }
  // The thread does other things between leave() and the next enter(): that time is not counted.
  void enter() {
    since_ = Clock::now();
    counters_->operation.store(to_string(kind_), std::memory_order_relaxed);
  }
  void leave() {
    time_ += Clock::now() - since_;
    counters_->operation.store("", std::memory_order_relaxed);
  }
  // Once, inside; `bytes` of the result.
  void done(size_t bytes) {
    leave();
    CollectiveCounters::Totals& totals = counters_->totals[static_cast<size_t>(kind_)];
    totals.bytes.fetch_add(static_cast<int64_t>(bytes), std::memory_order_relaxed);
    totals.nanoseconds.fetch_add(std::chrono::nanoseconds(time_).count(),
                                 std::memory_order_relaxed);
    counters_->completed.fetch_add(1, std::memory_order_release);
  }

 private:
  using Clock = std::chrono::steady_clock;
  std::shared_ptr<CollectiveCounters> counters_;
  CollectiveKind kind_;
  Clock::time_point since_;
  Clock::duration time_{};
};

}  // namespace emoe::worker
