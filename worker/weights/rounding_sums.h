#pragma once

#include <cstdint>

namespace emoe::worker {

// Largest difference of two series of numbers, and the Euclidean norm of all. Sums of squares are in
// double precision, in one order on every processor.
struct Differences {
  static constexpr int kLanes = 16;
  float largest_of[kLanes] = {};
  int32_t unordered[kLanes] = {};  // not 0: a difference was NaN
  double squares[kLanes] = {};

  [[nodiscard]] double largest() const;  // NaN where one was
  [[nodiscard]] double norm() const;
};

// What becomes of values when they are changed and then rounded to a coarser type, summed over blocks.
class RoundingSums {
 public:
  struct Block {
    const float* original;
    const float* wide;  // as it was changed
    const float* back;  // that, rounded and read back
    int64_t count;
  };
  void add(const Block& block);

  [[nodiscard]] const Differences& delta() const { return delta_; }  // wide - original
  [[nodiscard]] const Differences& lost() const { return lost_; }    // back - wide
  // How many values that are not 0 became 0.
  [[nodiscard]] int64_t flushed() const { return flushed_; }
  // Whether a finite value became infinite.
  [[nodiscard]] bool beyond() const { return beyond_; }

 private:
  Differences delta_;
  Differences lost_;
  int64_t flushed_ = 0;
  bool beyond_ = false;
};

}  // namespace emoe::worker
