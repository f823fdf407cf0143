#include "tests/worker/comm/loopback_group.h"

#include <algorithm>
#include <array>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include <absl/strings/str_cat.h>

#include "base/check.h"

namespace emoe::worker::testing {
namespace {

// What a rank brings to the collective in progress. Valid between its two meetings.
struct Contribution {
  CollectiveKind kind = CollectiveKind::barrier;
  const void* data = nullptr;
  size_t size = 0;  // bytes
  int root = 0;
};

// Where the threads meet. meet() returns when all ranks came, or throws when one has left.
class Meeting {
 public:
  explicit Meeting(int world_size) : contributions_(world_size), left_(world_size, false) {}

  [[nodiscard]] int world_size() const { return static_cast<int>(contributions_.size()); }
  [[nodiscard]] const Contribution& of(int rank) const { return contributions_[rank]; }

  void contribute(int rank, const Contribution& contribution) {
    {
      const std::lock_guard lock(mutex_);
      contributions_[rank] = contribution;
    }
    meet(contribution.kind);
  }

  void meet(CollectiveKind kind) {
    std::unique_lock lock(mutex_);
    throw_if_left_locked(kind);
    const int64_t meeting = meeting_;
    if (++present_ == world_size()) {
      present_ = 0;
      ++meeting_;
      changed_.notify_all();
      return;
    }
    changed_.wait(lock, [&] { return meeting_ != meeting || someone_left_; });
    if (meeting_ == meeting) throw_if_left_locked(kind);
  }

  void leave(int rank) {
    const std::lock_guard lock(mutex_);
    left_[rank] = true;
    someone_left_ = true;
    changed_.notify_all();
  }

 private:
  void throw_if_left_locked(CollectiveKind kind) const {
    if (!someone_left_) return;
    const auto rank = std::find(left_.begin(), left_.end(), true) - left_.begin();
    throw CommunicationError(absl::StrCat(to_string(kind), ": rank ", rank, " has left the group"));
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<Contribution> contributions_;
  std::vector<bool> left_;
  bool someone_left_ = false;
  int present_ = 0;
  int64_t meeting_ = 0;
};

class LoopbackTransport final : public Transport {
 public:
  LoopbackTransport(std::shared_ptr<Meeting> meeting, int rank)
      : meeting_(std::move(meeting)), rank_(rank) {}
  ~LoopbackTransport() override { meeting_->leave(rank_); }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return meeting_->world_size(); }

  void all_reduce(CollectiveKind kind, void* data, size_t count, Number number) override {
    if (world_size() == 1) return;  // no copy
    std::vector<std::byte> result(count * size_of(number));
    exchange({kind, data, result.size()}, [&] { combine(kind, 0, count, number, result.data()); });
    std::copy(result.begin(), result.end(), static_cast<std::byte*>(data));
  }

  void reduce_scatter(const void* in, void* out, size_t count, Number number) override {
    const auto kind = CollectiveKind::reduce_scatter;
    const auto rank = static_cast<size_t>(rank_);
    exchange({kind, in, count * size_of(number) * static_cast<size_t>(world_size())},
             [&] { combine(kind, rank * count, count, number, out); });
  }

  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size());
    exchange({CollectiveKind::broadcast, buffer.data(), buffer.size(), root}, [&] {
      if (root == rank_ || buffer.empty()) return;
      std::memcpy(buffer.data(), meeting_->of(root).data, buffer.size());
    });
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> all) override {
    EMOE_CHECK(all.size() == mine.size() * static_cast<size_t>(world_size()));
    exchange({CollectiveKind::all_gather, mine.data(), mine.size()}, [&] {
      for (size_t begin = 0, r = 0; begin < all.size(); begin += mine.size(), ++r) {
        std::memcpy(all.data() + begin, meeting_->of(static_cast<int>(r)).data, mine.size());
      }
    });
  }

  void barrier() override {
    exchange({CollectiveKind::barrier}, [] {});
  }

  std::shared_ptr<Transport> split(int color, int key) override {
    std::array<int, 3> mine = {color, key, rank_};
    std::vector<std::array<int, 3>> members;
    std::vector<std::array<int, 3>> all(world_size());
    all_gather(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(all)));
    std::copy_if(all.begin(), all.end(), std::back_inserter(members),
                 [&](const auto& other) { return other[0] == color; });
    std::sort(members.begin(), members.end());
    // The first of them makes the meeting that the others find.
    std::shared_ptr<Meeting> meeting;
    if (members[0] == mine) meeting = std::make_shared<Meeting>(static_cast<int>(members.size()));
    exchange({CollectiveKind::split, &meeting, 0}, [&] {
      const void* first = meeting_->of(members[0][2]).data;
      if (members[0] != mine) meeting = *static_cast<const std::shared_ptr<Meeting>*>(first);
    });
    const auto place = std::find(members.begin(), members.end(), mine) - members.begin();
    return std::make_shared<LoopbackTransport>(std::move(meeting), static_cast<int>(place));
  }

 private:
  // All ranks meet with what they bring; `take` reads it; nobody goes on before all have read.
  template <typename Take>
  void exchange(const Contribution& mine, Take take) {
    meeting_->contribute(rank_, mine);
    for (int r = 0; r < world_size(); ++r) {
      const Contribution& theirs = meeting_->of(r);
      if (theirs.kind != mine.kind || theirs.size != mine.size || theirs.root != mine.root) {
        throw CommunicationError(absl::StrCat(
            "rank ", rank_, " is in ", to_string(mine.kind), " of ", mine.size, " bytes, rank ", r,
            " in ", to_string(theirs.kind), " of ", theirs.size, " bytes"));
      }
    }
    take();
    meeting_->meet(mine.kind);
  }

  // Numbers [begin, begin + count) of all contributions, combined in rank order.
  void combine(CollectiveKind kind, size_t begin, size_t count, Number number, void* out) const {
    switch (number) {
      case Number::float32:
        return combine_as(kind, begin, std::span(static_cast<float*>(out), count));
      case Number::float64:
        return combine_as(kind, begin, std::span(static_cast<double*>(out), count));
      case Number::int64:
        return combine_as(kind, begin, std::span(static_cast<int64_t*>(out), count));
    }
  }

  template <typename T>
  void combine_as(CollectiveKind kind, size_t begin, std::span<T> out) const {
    for (int r = 0; r < world_size(); ++r) {
      const T* theirs = static_cast<const T*>(meeting_->of(r).data) + begin;
      for (size_t i = 0; i < out.size(); ++i) {
        if (r == 0) {
          out[i] = theirs[i];
        } else {
          out[i] = kind == CollectiveKind::all_reduce_max ? std::max(out[i], theirs[i])
                                                          : out[i] + theirs[i];
        }
      }
    }
  }

  std::shared_ptr<Meeting> meeting_;
  int rank_;
};

}  // namespace

std::vector<std::unique_ptr<HostGroup>> make_loopback_group(int world_size) {
  EMOE_CHECK(world_size >= 1);
  auto meeting = std::make_shared<Meeting>(world_size);
  std::vector<std::unique_ptr<HostGroup>> ranks;
  for (int r = 0; r < world_size; ++r) {
    ranks.push_back(std::make_unique<HostGroup>(std::make_shared<LoopbackTransport>(meeting, r),
                                                std::make_shared<CollectiveCounters>()));
  }
  return ranks;
}

}  // namespace emoe::worker::testing
