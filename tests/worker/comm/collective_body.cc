#include "tests/worker/comm/collective_body.h"

#include <algorithm>
#include <thread>

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include "tests/worker/comm/loopback_group.h"

namespace emoe::worker::testing {
namespace {

constexpr int64_t kSizes[] = {0, 1, 3, 1023, 65'537};
constexpr at::ScalarType kSummed[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf, at::kLong};
constexpr at::ScalarType kMoved[] = {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf,
                                     at::kLong,  at::kBool,   at::kByte};

// Small whole numbers: their sums over 4 ranks are exact in every type and any order.
at::Tensor numbers(int rank, int64_t size, at::ScalarType type) {
  return at::arange(size, at::kLong).mul(7).add(13 * rank).remainder(61).to(type);
}

std::string case_of(at::ScalarType type, int64_t size) {
  return std::string(at::toString(type)) + " of size " + std::to_string(size);
}

at::Tensor sum_over_ranks(int world_size, int64_t size, at::ScalarType type) {
  at::Tensor sum = at::zeros({size}, at::kDouble);
  for (int r = 0; r < world_size; ++r) sum += numbers(r, size, type).to(at::kDouble);
  return sum.to(type);
}

at::Tensor all_of(int world_size, int64_t size, at::ScalarType type) {
  std::vector<at::Tensor> parts;
  for (int r = 0; r < world_size; ++r) parts.push_back(numbers(r, size, type));
  return at::cat(parts);
}

void check_sums(DeviceGroup& group, const Memory& memory, int64_t size) {
  const int world = group.world_size();
  for (const at::ScalarType type : kSummed) {
    at::Tensor tensor = memory.to_device(numbers(group.rank(), size, type));
    group.all_reduce(tensor).wait();
    EXPECT_TRUE(memory.to_host(tensor).equal(sum_over_ranks(world, size, type)))
        << case_of(type, size);

    const at::Tensor whole = memory.to_device(numbers(group.rank(), size * world, type));
    at::Tensor part = memory.to_device(at::empty({size}, type));
    group.reduce_scatter(whole, part).wait();
    const at::Tensor expected =
        sum_over_ranks(world, size * world, type).narrow(0, size * group.rank(), size);
    EXPECT_TRUE(memory.to_host(part).equal(expected)) << case_of(type, size);
    EXPECT_TRUE(memory.to_host(whole).equal(numbers(group.rank(), size * world, type)))
        << "in is left alone";
  }
}

void check_moves(DeviceGroup& group, const Memory& memory, int64_t size) {
  const int world = group.world_size();
  for (const at::ScalarType type : kMoved) {
    const at::Tensor mine = memory.to_device(numbers(group.rank(), size, type));
    at::Tensor all = memory.to_device(at::empty({world * size}, type));
    group.all_gather(mine, all).wait();
    EXPECT_TRUE(memory.to_host(all).equal(all_of(world, size, type))) << case_of(type, size);
    for (int root = type == at::kFloat ? 0 : world - 1; root < world; ++root) {
      at::Tensor tensor = memory.to_device(numbers(group.rank(), size, type));
      group.broadcast(tensor, root).wait();
      EXPECT_TRUE(memory.to_host(tensor).equal(numbers(root, size, type))) << case_of(type, size);
    }
  }
}

// The same sums twice, bit for bit, and the same bits on every rank.
void check_repeatable(DeviceGroup& group, const Memory& memory, int64_t size) {
  const int world = group.world_size();
  for (const at::ScalarType type : {at::kFloat, at::kDouble, at::kBFloat16, at::kHalf}) {
    std::vector<std::string> runs;
    for (int run = 0; run < 2; ++run) {
      at::Tensor tensor = memory.to_device(awkward(group.rank(), size, type));
      group.all_reduce(tensor).wait();
      at::Tensor all = memory.to_device(at::empty({world, size}, type));
      group.all_gather(tensor, all).wait();
      const at::Tensor mine = memory.to_host(tensor);
      for (int r = 0; r < world; ++r) {
        EXPECT_TRUE(memory.to_host(all)[r].equal(mine))
            << "rank " << r << " has other bits, " << case_of(type, size);
      }
      at::Tensor part = memory.to_device(at::empty({size}, type));
      group.reduce_scatter(memory.to_device(awkward(group.rank(), size * world, type)), part)
          .wait();
      runs.push_back(bytes_of(mine) + bytes_of(memory.to_host(part)));
    }
    EXPECT_TRUE(runs[0] == runs[1]) << case_of(type, size);
  }
}

void check_several_in_progress(DeviceGroup& group, const Memory& memory) {
  const int world = group.world_size();
  constexpr int64_t kSize = 999;
  const CollectiveCounters& counters = *group.counters();
  const int64_t before = counters.started;
  const int64_t gathered_before = counters.of(CollectiveKind::all_gather).bytes;
  const at::Tensor mine = memory.to_device(numbers(group.rank(), kSize, at::kFloat));
  at::Tensor sum = memory.to_device(numbers(group.rank(), kSize, at::kFloat));
  at::Tensor root = memory.to_device(numbers(group.rank(), kSize, at::kFloat));
  at::Tensor all = memory.to_device(at::empty({world, kSize}, at::kFloat));
  at::Tensor part = memory.to_device(at::empty({kSize}, at::kFloat));
  Work summing = group.all_reduce(sum);
  Work gathering = group.all_gather(mine, all);
  Work casting = group.broadcast(root, world - 1);
  Work scattering = group.reduce_scatter(
      memory.to_device(numbers(group.rank(), world * kSize, at::kFloat)), part);
  EXPECT_EQ(counters.started, before + 4);
  EXPECT_EQ(counters.completed, before) << "a collective is completed by its wait()";
  EXPECT_STREQ(counters.operation, "") << "and the rank is in none before";
  gathering.wait();
  EXPECT_EQ(counters.completed, before + 1);
  EXPECT_EQ(counters.of(CollectiveKind::all_gather).bytes - gathered_before, 4 * kSize * world);
  scattering.wait();
  summing.wait();
  casting.wait();
  EXPECT_EQ(counters.completed, before + 4);
  EXPECT_TRUE(memory.to_host(sum).equal(sum_over_ranks(world, kSize, at::kFloat)));
  EXPECT_TRUE(memory.to_host(all).flatten().equal(all_of(world, kSize, at::kFloat)));
  EXPECT_TRUE(memory.to_host(root).equal(numbers(world - 1, kSize, at::kFloat)));
  const at::Tensor sums = sum_over_ranks(world, world * kSize, at::kFloat);
  EXPECT_TRUE(memory.to_host(part).equal(sums.narrow(0, kSize * group.rank(), kSize)));
}

// Even and odd ranks, each in descending order.
void check_split(DeviceGroup& group, const Memory& memory) {
  const int world = group.world_size();
  const int color = group.rank() % 2;
  const auto part = group.split(color, world - group.rank());
  std::vector<int> members;
  for (int r = world - 1; r >= 0; --r) {
    if (r % 2 == color) members.push_back(r);
  }
  ASSERT_EQ(part->world_size(), static_cast<int>(members.size()));
  EXPECT_EQ(members[part->rank()], group.rank());
  EXPECT_EQ(part->counters(), group.counters()) << "one sequence for each rank";
  const at::Tensor mine = memory.to_device(at::full({3}, group.rank(), at::kLong));
  at::Tensor all = memory.to_device(at::empty({part->world_size() * 3}, at::kLong));
  Work within = part->all_gather(mine, all);
  at::Tensor everyone = memory.to_device(at::full({3}, group.rank(), at::kLong));
  group.all_reduce(everyone).wait();  // both at a time
  within.wait();
  EXPECT_EQ(memory.to_host(everyone)[0].item<int64_t>(), world * (world - 1) / 2);
  for (size_t i = 0; i < members.size(); ++i) {
    EXPECT_EQ(memory.to_host(all)[static_cast<int64_t>(3 * i)].item<int64_t>(), members[i]);
  }
  const auto alone = part->split(part->rank(), 0);
  EXPECT_EQ(alone->world_size(), 1);
  alone->all_reduce(everyone).wait();
  EXPECT_EQ(memory.to_host(everyone)[0].item<int64_t>(), world * (world - 1) / 2);
}

// Texts of any bytes, and of other lengths on every rank.
std::string text(int rank) {
  std::string result(static_cast<size_t>(rank) * 1000, '\0');
  return result + "rank " + std::to_string(rank);
}

}  // namespace

at::Tensor awkward(int rank, int64_t size, at::ScalarType type) {
  const at::Tensor denominators = at::arange(size, at::kDouble).remainder(1009).add(3 + 2 * rank);
  return denominators.reciprocal().mul(rank % 2 == 0 ? 1.0 : -0.37).to(type);
}

std::string bytes_of(const at::Tensor& tensor) {
  return {static_cast<const char*>(tensor.const_data_ptr()), tensor.nbytes()};
}

Memory host_memory() {
  const auto same = [](const at::Tensor& tensor) { return tensor; };
  return {same, same};
}

void check_host_group(HostGroup& group) {
  const int world = group.world_size();
  const CollectiveCounters& counters = *group.counters();
  const int64_t before = counters.started;
  group.barrier();
  EXPECT_EQ(counters.started, before + 1);
  for (int root = 0; root < world; ++root) {
    EXPECT_EQ(group.broadcast(text(group.rank()), root), text(root));
    EXPECT_EQ(group.broadcast(group.rank() == root ? "" : "other", root), "");
  }
  const std::vector<std::string> texts = group.all_gather(text(group.rank()));
  ASSERT_EQ(texts.size(), static_cast<size_t>(world));
  for (int r = 0; r < world; ++r) EXPECT_EQ(texts[r], text(r));
  EXPECT_EQ(group.all_gather(""), std::vector<std::string>(world));

  std::vector<double> sums = {1.0 * group.rank(), -0.5};
  group.sum(sums);
  EXPECT_EQ(sums, (std::vector<double>{world * (world - 1) / 2.0, -0.5 * world}));
  std::vector<double> largest = {1.0 * group.rank(), -1.0 * group.rank()};
  group.max(largest);
  EXPECT_EQ(largest, (std::vector<double>{world - 1.0, 0.0}));
  group.sum({});
  EXPECT_FALSE(group.any(false));
  EXPECT_TRUE(group.any(true));
  EXPECT_TRUE(group.any(group.rank() == world - 1)) << "one rank is enough";

  const auto part = group.split(group.rank() % 2, group.rank());
  EXPECT_EQ(part->rank(), group.rank() / 2);
  EXPECT_EQ(part->all_gather("x").size(), static_cast<size_t>((world + 1 - group.rank() % 2) / 2));
  EXPECT_EQ(counters.started - before, 1 + 2 * world + 2 + 6 + 2);
  EXPECT_EQ(counters.completed, counters.started);
  EXPECT_STREQ(counters.operation, "");
}

void check_device_group(DeviceGroup& group, const Memory& memory) {
  for (const int64_t size : kSizes) {
    check_sums(group, memory, size);
    check_moves(group, memory, size);
  }
  check_repeatable(group, memory, 100'003);
  check_several_in_progress(group, memory);
  check_split(group, memory);
  EXPECT_EQ(group.counters()->completed, group.counters()->started);
}

void run_threads(int world_size, const std::function<void(HostGroup&, DeviceGroup&)>& body) {
  auto hosts = make_loopback_group(world_size);
  std::vector<std::jthread> threads;
  for (auto& host : hosts) {
    threads.emplace_back([&host, &body] {
      const auto device = make_cpu_group(*host);
      body(*host, *device);
    });
  }
}

}  // namespace emoe::worker::testing
