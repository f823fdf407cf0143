#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <vector>

#include "data/row_warnings.h"

namespace emoe::data {

// A file of a mixture. Of its rows each is taken floor(weight) times, and a share of
// weight - floor(weight) of them once more: with 0.3 three rows of ten, with 2 every row twice.
struct WeightedFile {
  std::filesystem::path path;
  double weight = 1.0;
};

// data.eval_fraction: which side of it a data set is.
struct HeldOut {
  enum class Side { none, train, eval } side = Side::none;
  double fraction = 0.0;
};

// Which rows, by their place in `rows`, are held out: of the different rows (white space apart) the
// round(fraction · their number), at least one, that come first in an order drawn by `seed`. All that
// are equal are on one side, so none that is held out is trained on.
[[nodiscard]] std::vector<bool> held_out_rows(std::span<const RowKey> rows, double fraction,
                                              int64_t seed);

// Of `rows` of the files, in order, the places of those that the data set has, as often as it has
// them: file by file, the repeated ones behind all of their file. A function of its arguments alone.
[[nodiscard]] std::vector<size_t> select_rows(std::span<const RowKey> rows,
                                              std::span<const WeightedFile> files,
                                              const HeldOut& held_out, int64_t seed);

}  // namespace emoe::data
