#pragma once

#include <condition_variable>
#include <mutex>
#include <vector>

namespace emoe::server {

// Carries out calls of several threads together: one of them does it for all that wait, so that what
// a commit costs is paid once for all of them. Without other threads each call is a group of its own.
// Thread-safe.
template <typename Call>
class CallGroup {
 public:
  // Returns when `call` was carried out. In one thread of each group `carry_out` is called, with a
  // function that gives the calls of the group, this one among them, in the order they came in: what
  // comes in before it is called belongs to the group.
  template <typename CarryOut>
  void run(Call& call, const CarryOut& carry_out) {
    Member self{.call = &call};
    std::unique_lock lock(mutex_);
    waiting_.push_back(&self);
    if (busy_) {
      self.changed.wait(lock, [&] { return self.done || self.leads; });
      if (self.done) return;
    }
    busy_ = true;
    lock.unlock();
    Group group{*this, self, {}};
    carry_out([&] {
      const std::lock_guard taking(mutex_);
      group.members.swap(waiting_);
      std::vector<Call*> calls;
      for (const Member* member : group.members) calls.push_back(member->call);
      return calls;
    });
  }

 private:
  struct Member {
    Call* call = nullptr;
    bool done = false;
    bool leads = false;
    std::condition_variable changed = {};
  };
  // Those that are carried out now. Ends with carry_out, also by an exception: the others return then
  // with what they have, and the next group begins.
  struct Group {
    CallGroup& owner;
    Member& leader;
    std::vector<Member*> members;
    ~Group() { owner.end(*this); }
  };
  void end(const Group& group) {
    const std::lock_guard lock(mutex_);
    std::erase(waiting_, &group.leader);  // it took nobody
    for (Member* member : group.members) {
      member->done = true;
      if (member != &group.leader) member->changed.notify_one();
    }
    busy_ = !waiting_.empty();
    if (!busy_) return;
    waiting_.front()->leads = true;
    waiting_.front()->changed.notify_one();
  }

  std::mutex mutex_;
  std::vector<Member*> waiting_;
  bool busy_ = false;  // a group is being carried out
};

}  // namespace emoe::server
