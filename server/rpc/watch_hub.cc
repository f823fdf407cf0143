#include "server/rpc/watch_hub.h"

#include <deque>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <pthread.h>

#include "server/job/errors.h"
#include "server/job/job_state_machine.h"
#include "server/rpc/grpc_status.h"

namespace emoe::server {

using Events = std::shared_ptr<const std::vector<v1::Event>>;

// What the store said in one round, for all streams that ask for the same.
class WatchHub::Round {
 public:
  explicit Round(WatchHub& hub) : hub_(hub) {}

  Result<Events> events(const std::string& job_id, int64_t from) {
    for (const Page& page : pages_) {
      if (page.from == from && page.job_id == job_id) return page.events;
    }
    EMOE_ASSIGN_OR_RETURN(auto events, hub_.store_.events(job_id, from, hub_.config_.batch));
    if (pages_.size() == kPages) pages_.pop_front();
    pages_.push_back({job_id, from, std::make_shared<std::vector<v1::Event>>(std::move(events))});
    return pages_.back().events;
  }
  Result<JobStore::Tail> tail(const std::string& job_id) {
    if (const auto known = tails_.find(job_id); known != tails_.end()) return known->second;
    EMOE_ASSIGN_OR_RETURN(const JobStore::Tail tail, hub_.store_.tail(job_id));
    tails_[job_id] = tail;
    return tail;
  }

 private:
  static constexpr size_t kPages = 8;  // those who come late are at many places
  struct Page {
    std::string job_id;
    int64_t from;
    Events events;
  };
  WatchHub& hub_;
  std::deque<Page> pages_;
  std::map<std::string, JobStore::Tail> tails_;
};

// One stream. pump() runs on the hub's thread only, and only it starts writes and finishes; the
// others just note what happened.
class WatchHub::Watcher {
 public:
  Watcher(WatchHub& hub, std::string job_id, int64_t from, std::shared_ptr<EventStream> stream)
      : hub_(hub), job_id_(std::move(job_id)), stream_(std::move(stream)), next_(from) {}

  [[nodiscard]] const std::string& job_id() const { return job_id_; }

  void pump(SteadyTime now, const std::optional<Status>& draining, bool news, Round& round) {
    stale_ = stale_ || news;
    {
      const std::lock_guard lock(mutex_);
      if (finished_ || writing_) return;
      if (gone_) return finish_locked(absl::CancelledError("the watcher is gone"));
    }
    if (draining) return finish(*draining);
    if (last_) return finish(ok_status());
    // A batch that was full may not have been the last one.
    if (at_end() && (stale_ || !caught_up_)) {
      if (const Status status = fetch(round); !status.ok()) return finish(status);
    }
    if (!at_end()) {
      write((*batch_)[at_++], now);
    } else if (own_.has_lagged()) {
      write(own_, now);
    } else if (last_) {
      finish(ok_status());
    } else if (now - last_write_ >= hub_.config_.heartbeat) {
      own_.set_job_id(job_id_);
      own_.mutable_heartbeat();
      write(own_, now);
    }
  }

  // Once; later calls change nothing.
  void finish(const Status& status) {
    const std::lock_guard lock(mutex_);
    finish_locked(status);
  }
  void written(bool ok) {
    const std::lock_guard lock(mutex_);
    writing_ = false;
    gone_ = gone_ || !ok;
  }
  void cancelled() {
    const std::lock_guard lock(mutex_);
    gone_ = true;
  }

 private:
  [[nodiscard]] bool at_end() const { return batch_ == nullptr || at_ == batch_->size(); }

  // The next events into batch_; sets last_ when nothing can follow them.
  Status fetch(Round& round) {
    EMOE_ASSIGN_OR_RETURN(batch_, round.events(job_id_, next_));
    at_ = 0;
    const bool full = static_cast<int>(batch_->size()) == hub_.config_.batch;
    stale_ = full;
    if (batch_->empty() || (full && caught_up_)) {
      EMOE_ASSIGN_OR_RETURN(const JobStore::Tail tail, round.tail(job_id_));
      const int64_t missed = tail.next_sequence - next_;
      if (caught_up_ && missed > hub_.config_.max_lag) {
        batch_ = nullptr;
        own_.set_job_id(job_id_);
        own_.mutable_lagged()->set_missed(missed);
        own_.mutable_lagged()->set_resume_from_sequence(next_);
        last_ = true;
        return ok_status();
      }
      // An ended job has no further events (missed is 0 unless some came just now).
      if (batch_->empty() && missed <= 0 && is_terminal(tail.state)) last_ = true;
    }
    caught_up_ = caught_up_ || !full;
    if (!batch_->empty()) next_ = batch_->back().sequence() + 1;
    return ok_status();
  }

  // `event` lies in batch_ or own_, neither of which changes while it is written.
  void write(const v1::Event& event, SteadyTime now) {
    if (event.has_state_change() && is_terminal(event.state_change().to())) last_ = true;
    if (event.has_lagged()) last_ = true;
    const std::lock_guard lock(mutex_);
    writing_ = true;
    last_write_ = now;
    stream_->write(event);
  }

  void finish_locked(const Status& status) {
    if (std::exchange(finished_, true)) return;
    stream_->finish(status);
  }

  WatchHub& hub_;
  const std::string job_id_;
  const std::shared_ptr<EventStream> stream_;
  // The hub's thread only.
  int64_t next_;
  bool stale_ = true;  // the store may have more
  bool caught_up_ = false;
  bool last_ = false;
  Events batch_;   // shared with other streams
  size_t at_ = 0;  // in it, what is written next
  v1::Event own_;  // a heartbeat, or that it lags behind
  SteadyTime last_write_ = hub_.clock_.steady_now();
  // Shared with the stream's threads.
  std::mutex mutex_;
  bool writing_ = false;
  bool gone_ = false;
  bool finished_ = false;
};

WatchHub::WatchHub(Config config, JobStore& store, const Clock& clock)
    : config_(config), store_(store), clock_(clock), thread_([this](const std::stop_token& stop) {
        pthread_setname_np(pthread_self(), "watch-hub");
        run(stop);
      }) {}

WatchHub::~WatchHub() = default;

Status WatchHub::watch(const std::string& job_id, int64_t from_sequence,
                       std::shared_ptr<EventStream> stream) {
  EMOE_ASSIGN_OR_RETURN(const JobStore::Tail tail, store_.tail(job_id));
  if (from_sequence < 0 || from_sequence > tail.next_sequence) {
    return make_error(StatusCode::kOutOfRange, "SEQUENCE_OUT_OF_RANGE",
                      absl::StrCat("from_sequence ", from_sequence, " is beyond the next event, ",
                                   tail.next_sequence));
  }
  const EventStream* key = stream.get();
  auto watcher = std::make_shared<Watcher>(*this, job_id, std::max<int64_t>(from_sequence, 1),
                                           std::move(stream));
  const std::lock_guard lock(mutex_);
  Entry& entry = watchers_[key] = {std::move(watcher), false, true};
  mark_locked(key, entry);
  return ok_status();
}

std::shared_ptr<WatchHub::Watcher> WatchHub::find(const EventStream* stream) const {
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(stream);
  return found == watchers_.end() ? nullptr : found->second.watcher;
}

void WatchHub::written(const EventStream* stream, bool ok) {
  if (const auto watcher = find(stream)) watcher->written(ok);
  wake(stream);
}

void WatchHub::cancelled(const EventStream* stream) {
  if (const auto watcher = find(stream)) watcher->cancelled();
  wake(stream);
}

void WatchHub::closed(const EventStream* stream) {
  std::shared_ptr<Watcher> last;  // destroyed outside the lock
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(stream);
  if (found == watchers_.end()) return;
  last = std::move(found->second.watcher);
  watchers_.erase(found);
}

void WatchHub::notify(const std::string& job_id) {
  const std::lock_guard lock(mutex_);
  for (auto& [key, entry] : watchers_) {
    if (entry.watcher->job_id() != job_id) continue;
    entry.news = true;
    mark_locked(key, entry);
  }
}

void WatchHub::mark_locked(const EventStream* stream, Entry& entry) {
  if (std::exchange(entry.dirty, true)) return;
  dirty_.push_back(stream);
  if (dirty_.size() == 1) changed_.notify_one();
}

void WatchHub::wake(const EventStream* stream) {
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(stream);
  if (found == watchers_.end()) return;
  mark_locked(stream, found->second);
}

void WatchHub::drain(const Status& status) {
  const std::lock_guard lock(mutex_);
  draining_ = status;
  for (auto& [key, entry] : watchers_) mark_locked(key, entry);
}

void WatchHub::stop() {
  thread_ = {};  // asks and joins
}

size_t WatchHub::watchers() const {
  const std::lock_guard lock(mutex_);
  return watchers_.size();
}

std::vector<WatchHub::Work> WatchHub::take_work_locked(bool all) {
  std::vector<Work> work;
  for (const EventStream* stream : dirty_) {
    const auto found = watchers_.find(stream);
    if (found == watchers_.end() || !std::exchange(found->second.dirty, false)) continue;
    if (!all) work.push_back({found->second.watcher, std::exchange(found->second.news, false)});
  }
  dirty_.clear();
  if (!all) return work;
  for (auto& [key, entry] : watchers_) {
    work.push_back({entry.watcher, true});
    entry.news = false;
  }
  return work;
}

void WatchHub::run(const std::stop_token& stop) {
  const auto pause = config_.heartbeat / 5;
  auto looked_at_all = std::chrono::steady_clock::now();
  while (!stop.stop_requested()) {
    std::vector<Work> work;
    std::optional<Status> draining;
    {
      std::unique_lock lock(mutex_);
      changed_.wait_for(lock, stop, pause, [&] { return !dirty_.empty(); });
      if (stop.stop_requested()) return;
      // A look at every stream now and then, for the heartbeats.
      const auto now = std::chrono::steady_clock::now();
      const bool all = dirty_.empty() || now - looked_at_all >= pause;
      if (all) looked_at_all = now;
      work = take_work_locked(all);
      draining = draining_;
    }
    Round round(*this);
    for (const auto& [watcher, news] : work) {
      const Status pumped = without_exceptions([&, &watcher = watcher, news = news] {
        watcher->pump(clock_.steady_now(), draining, news, round);
        return ok_status();
      });
      if (!pumped.ok()) watcher->finish(pumped);  // this stream's only
    }
  }
}

}  // namespace emoe::server
