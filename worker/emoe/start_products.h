#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/emoe/byte_rows.h"
#include "worker/emoe/dot_products.h"

namespace emoe::worker {

// Products of all rows with those that start the clusters of every restart, estimated in sixteen
// bits. Rows are given in parts, when they have just been read for something else: reading them
// once more takes longer than the products of one restart.
class StartProducts {
 public:
  // `starts`: rows by index, for each restart as many.
  StartProducts(const FloatRows& rows, std::span<const std::vector<int64_t>> starts);

  // Rows begin to end, rounded to `bytes`. Several threads at once, each with other rows.
  void add(const FloatRows& rows, const ByteRows& bytes, int64_t begin, int64_t end);

  // Once all rows were added. [rows, clusters] of a restart: gone afterwards.
  [[nodiscard]] std::vector<float> take(int32_t restart);
  // [clusters] how far any of them is from the product that would be computed (dot_products.h), at
  // most, where no row is longer than `longest`.
  [[nodiscard]] std::vector<double> errors(int32_t restart, double longest) const;

 private:
  int64_t clusters_;
  double rounding_;  // of a computed product
  ByteRows centre_bytes_;
  WordRows centres_;                      // of all restarts, one after the other
  std::vector<std::vector<float>> dots_;  // by restart
  std::vector<double> differences_;       // [rows] of the rows' words
};

}  // namespace emoe::worker
