#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace emoe::worker {

// Lowers the k-means objective of a balanced partition by two kinds of exchange, which an
// assignment to fixed means cannot see because the means follow the exchange (with clusters of two
// or four members that is most of the gain):
//   - two members of different clusters change places;
//   - one member of every cluster, drawn at random, is taken out, and all of them are given out
//     again in the best possible way (an assignment problem, solved exactly).
// Needs the rows' inner products: n² floats.
class LocalSearch {
 public:
  // `gram` [n, n] must outlive the object. The draws are functions of `seed`.
  LocalSearch(std::span<const float> gram, int64_t n, int32_t clusters, int64_t seed);

  // Improves `labels` (balanced) in place until no change of places gains more than rounding and
  // a number of draws in a row gained nothing; returns the number of improvements.
  int64_t improve(std::vector<int32_t>& labels);

 private:
  void sum_products(const std::vector<int32_t>& labels);
  int64_t exchange_pairs(std::vector<int32_t>& labels);
  bool improve_row(int64_t row, std::vector<int32_t>& labels);
  bool redistribute(std::vector<int32_t>& labels);
  void move(int64_t row, int32_t to, std::vector<int32_t>& labels);
  [[nodiscard]] std::vector<int64_t> draw_one_of_each(const std::vector<int32_t>& labels);
  [[nodiscard]] double gram(int64_t i, int64_t j) const {
    return static_cast<double>(gram_[static_cast<size_t>(i * n_ + j)]);
  }
  [[nodiscard]] double& product(int64_t row, int32_t cluster) {
    return products_[static_cast<size_t>(row * clusters_ + cluster)];
  }

  std::span<const float> gram_;
  int64_t n_;
  int32_t clusters_;
  int64_t seed_;
  int64_t draws_ = 0;
  double longest_ = 0.0;          // largest squared length of a row
  double least_gain_ = 0.0;       // below this a gain may be rounding
  std::vector<double> products_;  // [n, clusters] row · sum of the cluster's members
};

}  // namespace emoe::worker
