#include "tests/worker/comm/collective_body.h"

#include <cstring>
#include <vector>

#include <gtest/gtest.h>

namespace emoe::worker::testing {
namespace {

constexpr size_t kSizes[] = {0, 1, 2, 3, 7, 1023, 1024, 65'537, 1'000'003};

// Small whole numbers: their sums are exact in any order.
double value(int rank, size_t i) {
  return static_cast<double>((i * 7 + static_cast<size_t>(rank) * 13) % 1000);
}

// Numbers whose sums depend on the order of addition.
float awkward(int rank, size_t i) {
  return 1.0F / static_cast<float>(3 + i % 1009) * (rank % 2 == 0 ? 1.0F : 1e-4F);
}

template <typename T>
std::vector<T> filled(int rank, size_t size) {
  std::vector<T> buffer(size);
  for (size_t i = 0; i < size; ++i) buffer[i] = static_cast<T>(value(rank, i));
  return buffer;
}

template <typename T>
void check_sum(Communicator& comm, size_t size) {
  std::vector<T> buffer = filled<T>(comm.rank(), size);
  comm.all_reduce_sum(std::span<T>(buffer));
  for (size_t i = 0; i < size; ++i) {
    double expected = 0.0;
    for (int r = 0; r < comm.world_size(); ++r) expected += value(r, i);
    ASSERT_EQ(buffer[i], static_cast<T>(expected)) << "size " << size << " index " << i;
  }
}

void check_max(Communicator& comm, size_t size) {
  std::vector<double> buffer = filled<double>(comm.rank(), size);
  comm.all_reduce_max(buffer);
  for (size_t i = 0; i < size; ++i) {
    double expected = value(0, i);
    for (int r = 1; r < comm.world_size(); ++r) expected = std::max(expected, value(r, i));
    ASSERT_EQ(buffer[i], expected) << "size " << size << " index " << i;
  }
}

void check_broadcast(Communicator& comm, size_t size) {
  for (int root = 0; root < comm.world_size(); ++root) {
    std::vector<std::byte> buffer(size, static_cast<std::byte>(comm.rank()));
    comm.broadcast(buffer, root);
    for (const std::byte b : buffer) ASSERT_EQ(b, static_cast<std::byte>(root));
  }
}

void check_gather(Communicator& comm, size_t size) {
  std::vector<std::byte> mine(size);
  for (size_t i = 0; i < size; ++i) {
    mine[i] = static_cast<std::byte>(i + static_cast<size_t>(comm.rank()) * 31);
  }
  std::vector<std::byte> all(size * static_cast<size_t>(comm.world_size()));
  comm.all_gather(mine, all);
  for (size_t r = 0; r < static_cast<size_t>(comm.world_size()); ++r) {
    for (size_t i = 0; i < size; ++i) {
      ASSERT_EQ(all[r * size + i], static_cast<std::byte>(i + r * 31)) << r << " " << i;
    }
  }
}

// The same sum twice, bit for bit, and the same bits on every rank.
void check_repeatable(Communicator& comm, size_t size) {
  std::vector<std::vector<float>> runs;
  for (int run = 0; run < 2; ++run) {
    std::vector<float> buffer(size);
    for (size_t i = 0; i < size; ++i) buffer[i] = awkward(comm.rank(), i);
    comm.all_reduce_sum(std::span<float>(buffer));
    runs.push_back(std::move(buffer));
  }
  ASSERT_EQ(0, std::memcmp(runs[0].data(), runs[1].data(), size * sizeof(float)));
  std::vector<float> all(size * static_cast<size_t>(comm.world_size()));
  comm.all_gather(std::as_bytes(std::span(runs[0])), std::as_writable_bytes(std::span(all)));
  for (int r = 0; r < comm.world_size(); ++r) {
    ASSERT_EQ(0, std::memcmp(all.data() + static_cast<size_t>(r) * size, runs[0].data(),
                             size * sizeof(float)))
        << "rank " << r << " has other bits";
  }
}

struct Totals {
  int64_t calls = 0;
  int64_t bytes = 0;
  int64_t nanoseconds = 0;
};

std::vector<Totals> totals_of(const CollectiveCounters& counters) {
  std::vector<Totals> totals;
  for (const auto& kind : counters.totals) {
    totals.push_back({kind.calls, kind.bytes, kind.nanoseconds});
  }
  return totals;
}

// What check_all_collectives adds to the counters of each kind, all sizes counted.
void check_totals(const Communicator& comm, const std::vector<Totals>& before) {
  const auto world = static_cast<int64_t>(comm.world_size());
  const auto sizes = static_cast<int64_t>(std::size(kSizes));
  int64_t elements = 0;
  for (const size_t size : kSizes) elements += static_cast<int64_t>(size);
  constexpr int64_t kRepeated = 4096 + 100'003;
  const std::vector<Totals> now = totals_of(comm.counters());
  const auto expect = [&](CollectiveKind kind, int64_t calls, int64_t bytes) {
    const auto i = static_cast<size_t>(kind);
    EXPECT_EQ(now[i].calls - before[i].calls, calls) << to_string(kind);
    EXPECT_EQ(now[i].bytes - before[i].bytes, bytes) << to_string(kind);
    EXPECT_GT(now[i].nanoseconds, before[i].nanoseconds) << to_string(kind);
  };
  expect(CollectiveKind::all_reduce, 2 * sizes + 4, 12 * elements + 2 * 4 * kRepeated);
  expect(CollectiveKind::all_reduce_max, sizes, 8 * elements);
  expect(CollectiveKind::broadcast, sizes * world, elements * world);
  expect(CollectiveKind::all_gather, sizes + 2, world * (elements + 4 * kRepeated));
  expect(CollectiveKind::barrier, 2, 0);
}

}  // namespace

void check_all_collectives(Communicator& comm) {
  const int64_t before = comm.counters().started;
  const std::vector<Totals> totals_before = totals_of(comm.counters());
  comm.barrier();
  EXPECT_EQ(comm.counters().started, before + 1);
  EXPECT_EQ(comm.counters().completed, comm.counters().started);
  for (const size_t size : kSizes) {
    check_sum<float>(comm, size);
    check_sum<double>(comm, size);
    check_max(comm, size);
    check_broadcast(comm, size);
    check_gather(comm, size);
  }
  check_repeatable(comm, 4096);
  check_repeatable(comm, 100'003);
  comm.barrier();
  const auto sizes = static_cast<int64_t>(std::size(kSizes));
  EXPECT_EQ(comm.counters().started - before, 2 + sizes * (4 + comm.world_size()) + 2 * 3);
  EXPECT_EQ(comm.counters().completed, comm.counters().started);
  EXPECT_STREQ(comm.counters().operation, "");
  check_totals(comm, totals_before);
}

}  // namespace emoe::worker::testing
