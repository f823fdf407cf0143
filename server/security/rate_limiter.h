#pragma once

#include <chrono>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>

#include "base/clock.h"

namespace emoe::server {

// Calls a second of each of many callers: a bucket of `burst` calls that fills again at `per_second`.
// Thread-safe; `clock` outlives it.
class RateLimiter {
 public:
  struct Config {
    double per_second = 0;  // 0: no limit
    double burst = 1;
  };
  RateLimiter(Config config, const Clock& clock) : config_(config), clock_(clock) {}

  // Takes a call out of the caller's bucket; where it is empty, how long until there is one.
  [[nodiscard]] std::optional<std::chrono::duration<double>> take(const std::string& caller);
  [[nodiscard]] size_t buckets() const;

 private:
  struct Bucket {
    double calls = 0;
    SteadyTime filled;  // when `calls` was brought up to date
  };
  void fill(Bucket& bucket, SteadyTime now) const;
  void drop_full(SteadyTime now);

  const Config config_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::unordered_map<std::string, Bucket> buckets_;
};

}  // namespace emoe::server
