#include "server/security/rate_limiter.h"

#include <algorithm>

namespace emoe::server {
namespace {

// Callers that are kept before those are dropped whose buckets are full again.
constexpr size_t kManyBuckets = 10'000;

}  // namespace

void RateLimiter::fill(Bucket& bucket, SteadyTime now) const {
  const double seconds = std::chrono::duration<double>(now - bucket.filled).count();
  bucket.calls = std::min(config_.burst, bucket.calls + seconds * config_.per_second);
  bucket.filled = now;
}

void RateLimiter::drop_full(SteadyTime now) {
  for (auto entry = buckets_.begin(); entry != buckets_.end();) {
    fill(entry->second, now);
    entry = entry->second.calls >= config_.burst ? buckets_.erase(entry) : std::next(entry);
  }
}

std::optional<std::chrono::duration<double>> RateLimiter::take(const std::string& caller) {
  if (config_.per_second <= 0) return std::nullopt;
  const SteadyTime now = clock_.steady_now();
  const std::lock_guard lock(mutex_);
  if (buckets_.size() >= kManyBuckets && !buckets_.contains(caller)) drop_full(now);
  const auto [entry, is_new] = buckets_.try_emplace(caller, Bucket{config_.burst, now});
  Bucket& bucket = entry->second;
  if (!is_new) fill(bucket, now);
  if (bucket.calls >= 1) {
    bucket.calls -= 1;
    return std::nullopt;
  }
  return std::chrono::duration<double>((1 - bucket.calls) / config_.per_second);
}

size_t RateLimiter::buckets() const {
  const std::lock_guard lock(mutex_);
  return buckets_.size();
}

}  // namespace emoe::server
