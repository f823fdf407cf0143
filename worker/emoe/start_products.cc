#include "worker/emoe/start_products.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "worker/emoe/index.h"

namespace emoe::worker {

StartProducts::StartProducts(const FloatRows& rows, std::span<const std::vector<int64_t>> starts)
    : clusters_(std::ssize(starts.front())),
      rounding_(product_rounding(rows)),
      centre_bytes_(rows.width()),
      centres_(rows.width()),
      dots_(starts.size()),
      differences_(at(rows.rows())) {
  FloatRows centres(std::ssize(starts) * clusters_, rows.width());
  int64_t place = 0;
  for (const std::vector<int64_t>& start : starts) {
    EMOE_CHECK(std::ssize(start) == clusters_);
    for (const int64_t row : start) {
      std::copy_n(rows.row(row), rows.stride(), centres.row(place++));
    }
  }
  centre_bytes_.assign(centres, 1);
  centres_.assign(centres, centre_bytes_, 0, centres.rows());
  for (std::vector<float>& dots : dots_) dots.resize(at(rows.rows() * clusters_));
}

void StartProducts::add(const FloatRows& rows, const ByteRows& bytes, int64_t begin, int64_t end) {
  WordRows words(rows.width());
  words.assign(rows, bytes, begin, end);
  std::vector<int32_t> products(at((end - begin) * centres_.rows()));
  word_products(words, centres_, products);
  for (int64_t i = begin; i < end; ++i) {
    const float scale = words.scale(i - begin);
    const int32_t* product = &products[at((i - begin) * centres_.rows())];
    int64_t place = 0;
    for (std::vector<float>& dots : dots_) {
      float* line = &dots[at(i * clusters_)];
      for (int64_t c = 0; c < clusters_; ++c, ++place) {
        line[c] = static_cast<float>(product[place]) * (scale * centres_.scale(place));
      }
    }
    differences_[at(i)] = words.difference(i - begin);
  }
}

std::vector<float> StartProducts::take(int32_t restart) {
  return std::move(dots_[at(restart)]);
}

// With x = x' + dx and c = c' + dc, primes for what the words say, x·c is off by dx·c + x'·dc, of
// which |x'| <= |x| + |dx|; and the computed product by its own rounding.
std::vector<double> StartProducts::errors(int32_t restart, double longest) const {
  const double difference = *std::ranges::max_element(differences_);
  std::vector<double> errors;
  for (int64_t c = restart * clusters_; c < (restart + 1) * clusters_; ++c) {
    const double length = centre_bytes_.length(c);
    errors.push_back(1.001 *
                     (difference * length + (longest + difference) * centres_.difference(c) +
                      rounding_ * longest * length));
  }
  return errors;
}

}  // namespace emoe::worker
