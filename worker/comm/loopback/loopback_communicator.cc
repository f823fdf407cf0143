#include "worker/comm/loopback/loopback_communicator.h"

#include <algorithm>
#include <condition_variable>
#include <cstring>
#include <mutex>

#include <absl/strings/str_cat.h>

#include "base/check.h"

namespace emoe::worker {
namespace {

// What a rank brings to the collective in progress. Valid between its two meetings.
struct Contribution {
  CollectiveKind kind = CollectiveKind::barrier;
  const std::byte* data = nullptr;
  size_t size = 0;  // bytes
  int root = 0;
};

// Where the threads meet. meet() returns when all ranks came, or throws when one has left.
class Group {
 public:
  explicit Group(int world_size) : contributions_(world_size), left_(world_size, false) {}

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

class LoopbackCommunicator final : public Communicator {
 public:
  LoopbackCommunicator(std::shared_ptr<Group> group, int rank)
      : group_(std::move(group)), rank_(rank) {}
  ~LoopbackCommunicator() override { group_->leave(rank_); }

  [[nodiscard]] int rank() const override { return rank_; }
  [[nodiscard]] int world_size() const override { return group_->world_size(); }
  [[nodiscard]] std::string name() const override { return "loopback"; }

  void all_reduce_sum(std::span<float> buffer) override {
    reduce(CollectiveKind::all_reduce, buffer, [](float& a, float b) { a += b; });
  }
  void all_reduce_sum(std::span<double> buffer) override {
    reduce(CollectiveKind::all_reduce, buffer, [](double& a, double b) { a += b; });
  }
  void all_reduce_max(std::span<double> buffer) override {
    reduce(CollectiveKind::all_reduce_max, buffer, [](double& a, double b) { a = std::max(a, b); });
  }

  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root >= 0 && root < world_size());
    Collective collective(*this, CollectiveKind::broadcast, buffer.size());
    start({CollectiveKind::broadcast, buffer.data(), buffer.size(), root});
    if (root != rank_ && !buffer.empty()) {
      std::memcpy(buffer.data(), group_->of(root).data, buffer.size());
    }
    group_->meet(CollectiveKind::broadcast);
    collective.done();
  }

  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    EMOE_CHECK(out.size() == mine.size() * static_cast<size_t>(world_size()));
    Collective collective(*this, CollectiveKind::all_gather, out.size());
    start({CollectiveKind::all_gather, mine.data(), mine.size(), 0});
    for (int r = 0; r < world_size() && !mine.empty(); ++r) {
      std::memcpy(out.data() + static_cast<size_t>(r) * mine.size(), group_->of(r).data,
                  mine.size());
    }
    group_->meet(CollectiveKind::all_gather);
    collective.done();
  }

  void barrier() override {
    Collective collective(*this, CollectiveKind::barrier, 0);
    start({CollectiveKind::barrier, nullptr, 0, 0});
    group_->meet(CollectiveKind::barrier);
    collective.done();
  }

 private:
  void start(const Contribution& mine) {
    group_->contribute(rank_, mine);
    for (int r = 0; r < world_size(); ++r) {
      const Contribution& theirs = group_->of(r);
      if (theirs.kind != mine.kind || theirs.size != mine.size || theirs.root != mine.root) {
        throw CommunicationError(absl::StrCat(
            "rank ", rank_, " is in ", to_string(mine.kind), " of ", mine.size, " bytes, rank ", r,
            " in ", to_string(theirs.kind), " of ", theirs.size, " bytes"));
      }
    }
  }

  template <typename T, typename Combine>
  void reduce(CollectiveKind kind, std::span<T> buffer, Combine combine) {
    Collective collective(*this, kind, buffer.size_bytes());
    start({kind, reinterpret_cast<const std::byte*>(buffer.data()), buffer.size_bytes(), 0});
    const auto* first = reinterpret_cast<const T*>(group_->of(0).data);
    std::vector<T> result(first, first + buffer.size());
    for (int r = 1; r < world_size(); ++r) {
      const auto* theirs = reinterpret_cast<const T*>(group_->of(r).data);
      for (size_t i = 0; i < result.size(); ++i) combine(result[i], theirs[i]);
    }
    group_->meet(kind);  // all have read before anyone overwrites its buffer
    std::copy(result.begin(), result.end(), buffer.begin());
    collective.done();
  }

  std::shared_ptr<Group> group_;
  int rank_;
};

// One rank needs neither threads nor copies.
class SingleCommunicator final : public Communicator {
 public:
  [[nodiscard]] int rank() const override { return 0; }
  [[nodiscard]] int world_size() const override { return 1; }
  [[nodiscard]] std::string name() const override { return "loopback"; }
  void all_reduce_sum(std::span<float> buffer) override {
    count(CollectiveKind::all_reduce, buffer.size_bytes());
  }
  void all_reduce_sum(std::span<double> buffer) override {
    count(CollectiveKind::all_reduce, buffer.size_bytes());
  }
  void all_reduce_max(std::span<double> buffer) override {
    count(CollectiveKind::all_reduce_max, buffer.size_bytes());
  }
  void broadcast(std::span<std::byte> buffer, int root) override {
    EMOE_CHECK(root == 0);
    count(CollectiveKind::broadcast, buffer.size());
  }
  void all_gather(std::span<const std::byte> mine, std::span<std::byte> out) override {
    EMOE_CHECK(out.size() == mine.size());
    std::copy(mine.begin(), mine.end(), out.begin());
    count(CollectiveKind::all_gather, out.size());
  }
  void barrier() override { count(CollectiveKind::barrier, 0); }

 private:
  void count(CollectiveKind kind, size_t bytes) { Collective(*this, kind, bytes).done(); }
};

}  // namespace

std::unique_ptr<Communicator> make_loopback() {
  return std::make_unique<SingleCommunicator>();
}

std::vector<std::unique_ptr<Communicator>> make_loopback_group(int world_size) {
  EMOE_CHECK(world_size >= 1);
  auto group = std::make_shared<Group>(world_size);
  std::vector<std::unique_ptr<Communicator>> ranks;
  for (int r = 0; r < world_size; ++r) {
    ranks.push_back(std::make_unique<LoopbackCommunicator>(group, r));
  }
  return ranks;
}

}  // namespace emoe::worker
