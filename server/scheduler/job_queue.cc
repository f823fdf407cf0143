#include "server/scheduler/job_queue.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <queue>

#include "base/check.h"

namespace emoe::server {
namespace {

constexpr size_t kChunk = 256;
constexpr int64_t kNever = std::numeric_limits<int64_t>::min();

int64_t packed(const std::optional<SteadyTime>& time) {
  return time ? static_cast<int64_t>(time->time_since_epoch().count()) : kNever;
}

std::optional<SteadyTime> unpacked(int64_t time) {
  if (time == kNever) return std::nullopt;
  return SteadyTime(SteadyTime::duration(time));
}

}  // namespace

// A QueuedJob without pointers.
struct JobQueue::Entry {
  WallTime create_time;
  int64_t not_before = kNever;
  int64_t full_until = kNever;
  int64_t rows = 0;
  int32_t priority = 0;
  int32_t ranks = 1;
  int32_t min_ranks = 0;
  int32_t group = 1;
  int32_t most_ranks = 0;
  float seconds = std::numeric_limits<float>::quiet_NaN();  // NaN: not known
  bool gpus = false;
  std::array<char, kLongestId + 1> id{};

  explicit Entry(const QueuedJob& job)
      : create_time(job.create_time),
        not_before(packed(job.not_before)),
        full_until(packed(job.full_until)),
        rows(job.needs.rows),
        priority(job.priority),
        ranks(job.needs.ranks),
        min_ranks(job.needs.min_ranks),
        group(job.needs.group),
        most_ranks(job.needs.most_ranks),
        gpus(job.needs.gpus) {
    EMOE_CHECK(job.id.size() <= kLongestId);
    std::memcpy(id.data(), job.id.data(), job.id.size());
    if (job.seconds) seconds = static_cast<float>(*job.seconds);
  }
  [[nodiscard]] QueuePlace place() const { return {priority, create_time, id.data()}; }
  [[nodiscard]] QueuedJob job(const Lane& lane) const {
    QueuedJob job{.id = id.data(),
                  .needs = {.ranks = ranks,
                            .gpus = gpus,
                            .min_ranks = min_ranks,
                            .rows = rows,
                            .group = group,
                            .most_ranks = most_ranks},
                  .priority = priority,
                  .create_time = create_time,
                  .not_before = unpacked(not_before),
                  .full_until = unpacked(full_until)};
    if (!std::isnan(seconds)) job.seconds = seconds;
    job.project = lane.project;
    return job;
  }
  void add_to(QueueAhead& sum, int sign) const {
    sum.jobs += sign;
    if (std::isnan(seconds)) {
      sum.unknown += sign;
    } else {
      sum.slot_seconds += sign * static_cast<double>(seconds) * ranks;
    }
  }
};

struct JobQueue::Chunk {
  std::vector<Entry> entries;  // never empty
  QueueAhead sum;              // of all of them

  void add_up() {
    sum = {};
    for (const Entry& entry : entries) entry.add_to(sum, 1);
  }
};

JobQueue::Row::Row() = default;
JobQueue::Row::Row(Row&&) noexcept = default;
JobQueue::Row::~Row() = default;

size_t JobQueue::Row::chunk_of(const QueuePlace& place) const {
  // The last chunk that begins at or before the place, else the first.
  const auto after = std::upper_bound(chunks_.begin(), chunks_.end(), place,
                                      [](const QueuePlace& wanted, const Chunk& chunk) {
                                        return wanted < chunk.entries.front().place();
                                      });
  return after == chunks_.begin() ? 0 : static_cast<size_t>(after - chunks_.begin()) - 1;
}

bool JobQueue::Row::put(const Entry& entry) {
  if (chunks_.empty()) chunks_.emplace_back();
  const QueuePlace place = entry.place();
  size_t index = chunks_.size() == 1 && chunks_[0].entries.empty() ? 0 : chunk_of(place);
  const auto comes_before = [](const Entry& a, const QueuePlace& b) { return a.place() < b; };
  auto* entries = &chunks_[index].entries;
  auto at = std::lower_bound(entries->begin(), entries->end(), place, comes_before);
  if (at != entries->end() && !(place < at->place())) {
    at->add_to(chunks_[index].sum, -1);
    *at = entry;
    entry.add_to(chunks_[index].sum, 1);
    return false;
  }
  if (entries->size() == kChunk) {
    // Behind all others a chunk begins anew, as most jobs come; else a full one is halved.
    const bool last = index + 1 == chunks_.size() && at == entries->end();
    Chunk rest;
    rest.entries.reserve(kChunk);
    if (!last) {
      const auto middle = entries->begin() + kChunk / 2;
      rest.entries.assign(middle, entries->end());
      entries->erase(middle, entries->end());
      rest.add_up();
      chunks_[index].add_up();
    }
    chunks_.insert(chunks_.begin() + static_cast<std::ptrdiff_t>(index) + 1, std::move(rest));
    if (last || !(place < chunks_[index + 1].entries.front().place())) ++index;
    entries = &chunks_[index].entries;
    at = std::lower_bound(entries->begin(), entries->end(), place, comes_before);
  }
  entries->insert(at, entry);
  entry.add_to(chunks_[index].sum, 1);
  return true;
}

bool JobQueue::Row::take(const QueuePlace& place) {
  if (chunks_.empty()) return false;
  const size_t index = chunk_of(place);
  auto& entries = chunks_[index].entries;
  const Entry* found = find(place);
  if (found == nullptr) return false;
  found->add_to(chunks_[index].sum, -1);
  entries.erase(entries.begin() + (found - entries.data()));
  if (entries.empty()) chunks_.erase(chunks_.begin() + static_cast<std::ptrdiff_t>(index));
  return true;
}

const JobQueue::Entry* JobQueue::Row::find(const QueuePlace& place) const {
  if (chunks_.empty()) return nullptr;
  const auto& entries = chunks_[chunk_of(place)].entries;
  const auto at =
      std::lower_bound(entries.begin(), entries.end(), place,
                       [](const Entry& a, const QueuePlace& b) { return a.place() < b; });
  return at == entries.end() || place < at->place() ? nullptr : &*at;
}

void JobQueue::Row::count(const QueuePlace& place, QueueAhead& ahead) const {
  if (chunks_.empty()) return;
  const size_t index = chunk_of(place);
  for (size_t i = 0; i < index; ++i) {
    ahead.jobs += chunks_[i].sum.jobs;
    ahead.slot_seconds += chunks_[i].sum.slot_seconds;
    ahead.unknown += chunks_[i].sum.unknown;
  }
  for (const Entry& entry : chunks_[index].entries) {
    if (!(entry.place() < place)) break;
    entry.add_to(ahead, 1);
  }
}

JobQueue::Lane JobQueue::lane_of(const QueuedJob& job) {
  return {least_ranks(job.needs), job.needs.gpus, job.project};
}

void JobQueue::put(const QueuedJob& job) {
  if (rows_[lane_of(job)].put(Entry(job))) ++size_;
}

bool JobQueue::take(const QueuePlace& place) {
  for (auto row = rows_.begin(); row != rows_.end(); ++row) {
    if (!row->second.take(place)) continue;
    if (row->second.empty()) rows_.erase(row);
    --size_;
    return true;
  }
  return false;
}

std::optional<QueuedJob> JobQueue::find(const QueuePlace& place) const {
  for (const auto& [lane, row] : rows_) {
    if (const Entry* found = row.find(place)) return found->job(lane);
  }
  return std::nullopt;
}

QueueAhead JobQueue::ahead(const QueuePlace& place) const {
  QueueAhead ahead;
  for (const auto& [lane, row] : rows_) row.count(place, ahead);
  return ahead;
}

void JobQueue::walk(const std::function<bool(const Lane&)>& passes,
                    const std::function<Walk(const QueuedJob&)>& visit) const {
  // Where the walk stands in each lane; the lane whose job comes first is on top.
  struct Cursor {
    const Lane* lane;
    const std::vector<Chunk>* chunks;
    size_t chunk = 0;
    size_t entry = 0;
    [[nodiscard]] const Entry& at() const { return (*chunks)[chunk].entries[entry]; }
  };
  const auto later = [](const Cursor& a, const Cursor& b) {
    return b.at().place() < a.at().place();
  };
  std::priority_queue<Cursor, std::vector<Cursor>, decltype(later)> cursors(later);
  for (const auto& [lane, row] : rows_) {
    if (!row.empty() && passes(lane)) cursors.push({&lane, &row.chunks()});
  }
  while (!cursors.empty()) {
    Cursor cursor = cursors.top();
    const Walk next = visit(cursor.at().job(*cursor.lane));
    if (next == Walk::stop) return;
    cursors.pop();
    if (next == Walk::pass_over_lane) continue;
    if (++cursor.entry == (*cursor.chunks)[cursor.chunk].entries.size()) {
      cursor.entry = 0;
      ++cursor.chunk;
    }
    if (cursor.chunk < cursor.chunks->size()) cursors.push(cursor);
  }
}

}  // namespace emoe::server
