#include "worker/emoe/price_scan.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "worker/emoe/index.h"

namespace emoe::worker {
namespace {

constexpr int32_t kWide = 8;
typedef int64_t Wide __attribute__((vector_size(kWide * sizeof(int64_t))));
constexpr int32_t kLanes = 16;
typedef int32_t Whole __attribute__((vector_size(kLanes * sizeof(int32_t))));
typedef int32_t Half __attribute__((vector_size(kWide * sizeof(int32_t))));

[[gnu::always_inline]] inline void load(const int64_t* from, Wide& to) {
  std::memcpy(&to, from, sizeof to);
}

[[gnu::always_inline]] inline void load(const int32_t* from, Wide& to) {
  Half half;
  std::memcpy(&half, from, sizeof half);
  to = __builtin_convertvector(half, Wide);
}

// In each lane the two cheapest of every eighth cluster, then the two cheapest of all lanes.
[[gnu::always_inline]] inline TwoCheapest two_of(const int32_t* costs, const int64_t* prices,
                                                 int32_t clusters) {
  const Wide none = Wide{} - 1;
  Wide first_cost = Wide{} + kFarCost;
  Wide second_cost = first_cost;
  Wide first = none;
  Wide second = none;
  Wide index = {0, 1, 2, 3, 4, 5, 6, 7};
  int32_t c = 0;
  for (; c + kWide <= clusters; c += kWide, index += kWide) {
    Wide cost;
    Wide price;
    load(costs + c, cost);
    load(prices + c, price);
    const Wide value = cost + price;
    const Wide is_first = value < first_cost;
    const Wide is_second = value < second_cost;
    second_cost = is_first ? first_cost : (is_second ? value : second_cost);
    second = is_first ? first : (is_second ? index : second);
    first_cost = is_first ? value : first_cost;
    first = is_first ? index : first;
  }
  TwoCheapest best;
  const auto offer = [&best](int64_t cluster, int64_t value) {
    if (cluster < 0) return;
    const auto number = static_cast<int32_t>(cluster);
    // Lanes come in any order: of equal ones the lower cluster is to win.
    if (value < best.first_cost || (value == best.first_cost && number < best.first)) {
      best.second_cost = best.first_cost;
      best.second = best.first;
      best.first_cost = value;
      best.first = number;
    } else if (value < best.second_cost || (value == best.second_cost && number < best.second)) {
      best.second_cost = value;
      best.second = number;
    }
  };
  for (int32_t lane = 0; lane < kWide; ++lane) {
    offer(first[lane], first_cost[lane]);
    offer(second[lane], second_cost[lane]);
  }
  for (; c < clusters; ++c) offer(c, costs[c] + prices[c]);
  return best;
}

// The same in half the width and without a branch, for prices close enough to each other: counted
// from the lowest, with any cost added, they are below kNone.
constexpr int32_t kNone = std::numeric_limits<int32_t>::max();

[[gnu::always_inline]] inline int32_t least_of(const Whole& v) {
  Half by8 = __builtin_shufflevector(v, v, 0, 1, 2, 3, 4, 5, 6, 7);
  const Half upper = __builtin_shufflevector(v, v, 8, 9, 10, 11, 12, 13, 14, 15);
  by8 = upper < by8 ? upper : by8;
  auto by4 = __builtin_shufflevector(by8, by8, 0, 1, 2, 3);
  const auto upper4 = __builtin_shufflevector(by8, by8, 4, 5, 6, 7);
  by4 = upper4 < by4 ? upper4 : by4;
  return std::min(std::min(by4[0], by4[2]), std::min(by4[1], by4[3]));
}

[[gnu::always_inline]] inline void load(const int32_t* from, Whole& to) {
  std::memcpy(&to, from, sizeof to);
}

// The lowest number but `other` of a value: `values` in whole vectors, kNone at their end.
[[gnu::always_inline]] inline int32_t place_of(int32_t sought, int32_t other,
                                               const std::vector<int32_t>& values) {
  const Whole none = Whole{} + kNone;
  Whole index = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Whole place = none;
  const int32_t* end = values.data() + values.size();
  for (const int32_t* at = values.data(); at != end; at += kLanes, index += kLanes) {
    Whole value;
    load(at, value);
    value = value == sought ? index : none;
    value = value == other ? none : value;
    place = value < place ? value : place;
  }
  return least_of(place);
}

// `prices` are counted from the lowest; `values` get the costs with them.
[[gnu::always_inline]] inline TwoCheapest two_of(std::span<const int32_t> costs,
                                                 const std::vector<int32_t>& prices, int64_t lowest,
                                                 std::vector<int32_t>& values) {
  const auto whole = static_cast<int64_t>(costs.size()) / kLanes * kLanes;
  for (auto c = at(whole); c < costs.size(); ++c) values[c] = costs[c] + prices[c];
  Whole first = Whole{} + kNone;
  Whole second = first;
  const int64_t count = std::ssize(values);
  int32_t* values_at = values.data();
  for (int64_t c = 0; c < count; c += kLanes) {
    Whole value;
    if (c < whole) {
      Whole price;
      load(costs.data() + c, value);
      load(prices.data() + c, price);
      value += price;
      std::memcpy(values_at + c, &value, sizeof value);
    } else {
      load(values_at + c, value);
    }
    const Whole larger = value < first ? first : value;
    second = larger < second ? larger : second;
    first = value < first ? value : first;
  }
  TwoCheapest best;
  const int32_t first_cost = least_of(first);
  best.first = place_of(first_cost, -1, values);
  best.first_cost = first_cost + lowest;
  // The second may be of any lane; in that of the first it is the second one.
  const Whole lanes = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const int32_t second_cost = least_of(lanes == best.first % kLanes ? second : first);
  if (second_cost == kNone) return best;
  best.second = place_of(second_cost, best.first, values);
  best.second_cost = second_cost + lowest;
  return best;
}

[[gnu::always_inline]] inline void scan(const int32_t* costs, std::span<const int64_t> prices,
                                        std::span<TwoCheapest> best) {
  const auto clusters = static_cast<int32_t>(prices.size());
  const auto [lowest, highest] = best.size() > 1
                                     ? std::ranges::minmax(prices)
                                     : std::ranges::min_max_result<int64_t>{0, kFarCost};
  if (highest - lowest < (int64_t{1} << 30) - 1) {  // costs are up to 2^30
    std::vector<int32_t> from_lowest;
    for (const int64_t price : prices) from_lowest.push_back(static_cast<int32_t>(price - lowest));
    std::vector<int32_t> values(at((clusters + kLanes - 1) / kLanes * kLanes), kNone);
    for (size_t i = 0; i < best.size(); ++i) {
      best[i] = two_of({costs + i * prices.size(), prices.size()}, from_lowest, lowest, values);
    }
    return;
  }
  for (size_t i = 0; i < best.size(); ++i) {
    best[i] = two_of(costs + i * prices.size(), prices.data(), clusters);
  }
}

[[gnu::always_inline]] inline void offer_all(const int32_t* costs, int64_t here, int64_t item,
                                             std::span<int64_t> edge_cost, int64_t* edge_item) {
  const auto clusters = static_cast<int32_t>(edge_cost.size());
  int32_t c = 0;
  for (; c + kWide <= clusters; c += kWide) {
    Wide cost;
    Wide present;
    Wide present_item;
    load(costs + c, cost);
    load(&edge_cost[at(c)], present);
    load(edge_item + c, present_item);
    const Wide move = cost - here;
    const Wide cheaper = move < present;
    present = cheaper ? move : present;
    present_item = cheaper ? Wide{} + item : present_item;
    std::memcpy(&edge_cost[at(c)], &present, sizeof present);
    std::memcpy(edge_item + c, &present_item, sizeof present_item);
  }
  for (; c < clusters; ++c) {
    const int64_t move = costs[c] - here;
    if (move >= edge_cost[at(c)]) continue;
    edge_cost[at(c)] = move;
    edge_item[c] = item;
  }
}

[[gnu::always_inline]] inline int32_t lowest(std::span<const int64_t> values) {
  const auto count = static_cast<int32_t>(values.size());
  Wide least = Wide{} + values[0];
  int32_t c = 0;
  for (; c + kWide <= count; c += kWide) {
    Wide value;
    load(&values[at(c)], value);
    least = value < least ? value : least;
  }
  int64_t all = values[0];
  for (int32_t lane = 0; lane < kWide; ++lane) all = least[lane] < all ? least[lane] : all;
  for (; c < count; ++c) all = values[at(c)] < all ? values[at(c)] : all;
  c = 0;
  while (values[at(c)] != all) ++c;
  return c;
}

[[gnu::always_inline]] inline void relax_all(std::span<const int64_t> edge_cost,
                                             const int64_t* prices, int64_t base, int64_t from,
                                             const Paths& paths) {
  const auto clusters = static_cast<int32_t>(edge_cost.size());
  int64_t* distances = paths.distances.data();
  int64_t* parents = paths.parents.data();
  int32_t c = 0;
  for (; c + kWide <= clusters; c += kWide) {
    Wide cost;
    Wide price;
    Wide distance;
    Wide parent;
    load(&edge_cost[at(c)], cost);
    load(prices + c, price);
    load(distances + c, distance);
    load(parents + c, parent);
    const Wide reached = base + cost + price;
    const Wide nearer = (reached < distance) & (distance != kSettled);
    distance = nearer ? reached : distance;
    parent = nearer ? Wide{} + from : parent;
    std::memcpy(distances + c, &distance, sizeof distance);
    std::memcpy(parents + c, &parent, sizeof parent);
  }
  for (; c < clusters; ++c) {
    const int64_t reached = base + edge_cost[at(c)] + prices[c];
    if (reached >= distances[c] || distances[c] == kSettled) continue;
    distances[c] = reached;
    parents[c] = from;
  }
}

#if defined(__x86_64__)
[[gnu::target("avx512f,avx512vl")]] int32_t lowest_avx512(std::span<const int64_t> values) {
  return lowest(values);
}
[[gnu::target("avx2")]] int32_t lowest_avx2(std::span<const int64_t> values) {
  return lowest(values);
}
[[gnu::target("avx512f,avx512vl")]] void relax_avx512(std::span<const int64_t> edge_cost,
                                                      const int64_t* prices, int64_t base,
                                                      int64_t from, const Paths& paths) {
  relax_all(edge_cost, prices, base, from, paths);
}
[[gnu::target("avx2")]] void relax_avx2(std::span<const int64_t> edge_cost, const int64_t* prices,
                                        int64_t base, int64_t from, const Paths& paths) {
  relax_all(edge_cost, prices, base, from, paths);
}
[[gnu::target("avx512f,avx512vl")]] void scan_avx512(const int32_t* costs,
                                                     std::span<const int64_t> prices,
                                                     std::span<TwoCheapest> best) {
  scan(costs, prices, best);
}
[[gnu::target("avx2")]] void scan_avx2(const int32_t* costs, std::span<const int64_t> prices,
                                       std::span<TwoCheapest> best) {
  scan(costs, prices, best);
}
[[gnu::target("avx512f,avx512vl")]] void offer_avx512(const int32_t* costs, int64_t here,
                                                      int64_t item, std::span<int64_t> edge_cost,
                                                      int64_t* edge_item) {
  offer_all(costs, here, item, edge_cost, edge_item);
}
[[gnu::target("avx2")]] void offer_avx2(const int32_t* costs, int64_t here, int64_t item,
                                        std::span<int64_t> edge_cost, int64_t* edge_item) {
  offer_all(costs, here, item, edge_cost, edge_item);
}
#endif

}  // namespace

void two_cheapest(std::span<const int32_t> costs, std::span<const int64_t> prices,
                  std::span<TwoCheapest> best) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) return scan_avx512(costs.data(), prices, best);
  if (__builtin_cpu_supports("avx2")) return scan_avx2(costs.data(), prices, best);
#endif
  scan(costs.data(), prices, best);
}

void offer_item(std::span<const int32_t> costs, int64_t here, int64_t item,
                std::span<int64_t> edge_cost, std::span<int64_t> edge_item) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) {
    return offer_avx512(costs.data(), here, item, edge_cost, edge_item.data());
  }
  if (__builtin_cpu_supports("avx2")) {
    return offer_avx2(costs.data(), here, item, edge_cost, edge_item.data());
  }
#endif
  offer_all(costs.data(), here, item, edge_cost, edge_item.data());
}

int32_t lowest_of(std::span<const int64_t> values) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) return lowest_avx512(values);
  if (__builtin_cpu_supports("avx2")) return lowest_avx2(values);
#endif
  return lowest(values);
}

void relax(std::span<const int64_t> edge_cost, std::span<const int64_t> prices, int64_t base,
           int64_t from, const Paths& paths) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512vl")) {
    return relax_avx512(edge_cost, prices.data(), base, from, paths);
  }
  if (__builtin_cpu_supports("avx2")) {
    return relax_avx2(edge_cost, prices.data(), base, from, paths);
  }
#endif
  relax_all(edge_cost, prices.data(), base, from, paths);
}

}  // namespace emoe::worker
