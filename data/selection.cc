#include "data/selection.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/counter_random.h"

namespace emoe::data {
namespace {

uint64_t key_of_draw(int64_t seed, const char* what) {
  return derive_key(static_cast<uint64_t>(seed), name_key(what));
}

// The smallest `count` of the pairs (draw, place), as places in ascending order.
std::vector<size_t> first_drawn(std::vector<std::pair<uint64_t, size_t>> draws, size_t count) {
  count = std::min(count, draws.size());
  std::ranges::sort(draws);
  std::vector<size_t> places;
  for (size_t i = 0; i < count; ++i) places.push_back(draws[i].second);
  std::ranges::sort(places);
  return places;
}

}  // namespace

std::vector<bool> held_out_rows(std::span<const RowKey> rows, double fraction, int64_t seed) {
  const uint64_t key = key_of_draw(seed, "data.eval_fraction");
  std::vector<uint64_t> draws;
  for (const RowKey& row : rows) draws.push_back(derive_key(key, row.content));
  std::vector<uint64_t> different = draws;
  std::ranges::sort(different);
  const auto [end, last] = std::ranges::unique(different);
  different.erase(end, last);
  std::vector<bool> held_out(rows.size());
  if (different.empty()) return held_out;
  const double share = std::round(fraction * static_cast<double>(different.size()));
  const size_t count = std::max<size_t>(1, static_cast<size_t>(share));
  const uint64_t most = different[std::min(count, different.size()) - 1];
  for (size_t i = 0; i < rows.size(); ++i) held_out[i] = draws[i] <= most;
  return held_out;
}

std::vector<size_t> select_rows(std::span<const RowKey> rows, std::span<const WeightedFile> files,
                                const HeldOut& held_out, int64_t seed) {
  std::vector<bool> out(rows.size());
  const bool is_eval = held_out.side == HeldOut::Side::eval;
  if (held_out.side != HeldOut::Side::none) out = held_out_rows(rows, held_out.fraction, seed);
  const uint64_t key = key_of_draw(seed, "data.train: weight");
  std::vector<size_t> chosen;
  for (size_t file = 0; file < files.size(); ++file) {
    std::vector<size_t> own;
    std::vector<std::pair<uint64_t, size_t>> draws;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (rows[i].file != static_cast<int64_t>(file) || out[i] != is_eval) continue;
      own.push_back(i);
      draws.emplace_back(random_bits(derive_key(key, file), rows[i].index), i);
    }
    const double weight = is_eval ? 1.0 : files[file].weight;
    const double whole = std::floor(weight);
    for (double pass = 0; pass < whole; ++pass) chosen.insert(chosen.end(), own.begin(), own.end());
    const double rest = std::round((weight - whole) * static_cast<double>(own.size()));
    const std::vector<size_t> more = first_drawn(std::move(draws), static_cast<size_t>(rest));
    chosen.insert(chosen.end(), more.begin(), more.end());
  }
  return chosen;
}

}  // namespace emoe::data
