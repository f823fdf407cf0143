#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "worker/comm/collective_counters.h"

namespace emoe::worker {

enum class Number { float32, float64, int64 };
[[nodiscard]] constexpr size_t size_of(Number number) {
  return number == Number::float32 ? 4 : 8;
}

// How the ranks of a group move bytes and add numbers in host memory: what HostGroup and the CPU's
// DeviceGroup are made of, by MPI, for a rank alone, or in tests by threads. Every method but the
// first two is a collective, finished when it returns. Sums are in the numbers' own type and, for
// the same ranks and sizes, in the same order every time (a rerun is bit-equal).
//
// Threads: one caller at a time per rank. Errors: CommunicationError with the operation and its
// cause; the transport is unusable then.
class Transport {
 public:
  virtual ~Transport() = default;
  [[nodiscard]] virtual int rank() const = 0;
  [[nodiscard]] virtual int world_size() const = 0;

  // In place, `count` numbers. `kind`: all_reduce or all_reduce_max.
  virtual void all_reduce(CollectiveKind kind, void* data, size_t count, Number number) = 0;
  // `in` has a block of `count` numbers for each rank; `out` gets the sum of the blocks for this
  // one.
  virtual void reduce_scatter(const void* in, void* out, size_t count, Number number) = 0;
  virtual void broadcast(std::span<std::byte> buffer, int root) = 0;
  // Every rank's bytes, in rank order, into `all` of world_size * mine.size() bytes.
  virtual void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) = 0;
  virtual void barrier() = 0;
  // The ranks that give the same color (>= 0) as a group of their own, ordered by key, then by
  // rank.
  [[nodiscard]] virtual std::shared_ptr<Transport> split(int color, int key) = 0;
};

}  // namespace emoe::worker
