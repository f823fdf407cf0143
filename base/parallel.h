#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace emoe {

// Calls work(begin, end) for parts of [0, count), about one a thread; returns when all are done.
template <typename Work>
void in_parts(int threads, int64_t count, const Work& work) {
  const int64_t parts = std::clamp<int64_t>(threads, 1, std::max<int64_t>(count, 1));
  const auto part = [&](int64_t p) { work(count * p / parts, count * (p + 1) / parts); };
  std::vector<std::jthread> others;
  for (int64_t p = 1; p < parts; ++p) others.emplace_back(part, p);
  part(0);
}

}  // namespace emoe
