#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "server/scheduler/scheduler.h"

namespace emoe::server {

// What orders the queue: higher priority first, then older, then by id.
struct QueuePlace {
  int priority = 0;
  WallTime create_time;
  std::string_view id;
  [[nodiscard]] friend bool operator<(const QueuePlace& a, const QueuePlace& b) {
    if (a.priority != b.priority) return a.priority > b.priority;
    if (a.create_time != b.create_time) return a.create_time < b.create_time;
    return a.id < b.id;
  }
};
[[nodiscard]] inline QueuePlace place_of(const QueuedJob& job) {
  return {job.priority, job.create_time, job.id};
}

// What stands before a place.
struct QueueAhead {
  int64_t jobs = 0;
  double slot_seconds = 0;  // of those whose time is known
  int64_t unknown = 0;      // those whose time is not
};

// The queued jobs in their order, less than 200 bytes each. Jobs of one project that need the same
// least number of ranks (with GPUs or without) are a lane, so that a scheduler passes over all that
// cannot run at all, or whose project may have no more slots, by passing over lanes. put, take and ahead take time with the logarithm of the
// jobs and with the number of their chunks, some thousands at a million. Not thread-safe.
class JobQueue {
 public:
  struct Lane {
    int least_ranks = 1;
    bool gpus = false;
    std::string project;
    [[nodiscard]] friend bool operator<(const Lane& a, const Lane& b) {
      return std::tie(a.least_ranks, a.gpus, a.project) <
             std::tie(b.least_ranks, b.gpus, b.project);
    }
  };
  [[nodiscard]] static Lane lane_of(const QueuedJob& job);

  // Ids have at most kLongestId bytes. One that stands at this place already is replaced.
  static constexpr size_t kLongestId = 47;
  void put(const QueuedJob& job);
  // Whether it was there.
  bool take(const QueuePlace& place);
  [[nodiscard]] std::optional<QueuedJob> find(const QueuePlace& place) const;
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] QueueAhead ahead(const QueuePlace& place) const;

  // Calls `visit` for each job in order, those of lanes that `passes` refuses left out, until it says
  // stop. `passes` is asked once for each lane, before the first job.
  enum class Walk {
    on,
    pass_over_lane,  // the rest of it
    stop,
  };
  void walk(const std::function<bool(const Lane&)>& passes,
            const std::function<Walk(const QueuedJob&)>& visit) const;

 private:
  struct Entry;
  struct Chunk;
  // The jobs of a lane, in chunks of which each has room for some hundred.
  class Row {
   public:
    Row();
    Row(Row&&) noexcept;
    ~Row();
    // Whether it is new.
    bool put(const Entry& entry);
    bool take(const QueuePlace& place);
    [[nodiscard]] const Entry* find(const QueuePlace& place) const;
    void count(const QueuePlace& place, QueueAhead& ahead) const;
    [[nodiscard]] bool empty() const { return chunks_.empty(); }
    [[nodiscard]] const std::vector<Chunk>& chunks() const { return chunks_; }

   private:
    // The chunk that the place is or would be in; only where there is one.
    [[nodiscard]] size_t chunk_of(const QueuePlace& place) const;
    std::vector<Chunk> chunks_;
  };

  std::map<Lane, Row> rows_;
  size_t size_ = 0;
};

}  // namespace emoe::server
