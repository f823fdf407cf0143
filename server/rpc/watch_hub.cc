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

// One stream. pump() runs on the hub's thread only, and only it starts writes and finishes; the
// others just note what happened.
class WatchHub::Watcher {
 public:
  Watcher(WatchHub& hub, std::string job_id, int64_t from, std::shared_ptr<EventStream> stream)
      : hub_(hub), job_id_(std::move(job_id)), stream_(std::move(stream)), next_(from) {}

  [[nodiscard]] const std::string& job_id() const { return job_id_; }

  void pump(SteadyTime now, const std::optional<Status>& draining) {
    {
      const std::lock_guard lock(mutex_);
      if (finished_ || writing_) return;
      if (gone_) return finish_locked(absl::CancelledError("the watcher is gone"));
    }
    if (draining) return finish(*draining);
    if (last_) return finish(ok_status());
    if (pending_.empty()) {
      if (const Status status = fetch(); !status.ok()) return finish(status);
    }
    if (!pending_.empty()) {
      write(std::move(pending_.front()), now);
      pending_.pop_front();
    } else if (last_) {
      finish(ok_status());
    } else if (now - last_write_ >= hub_.config_.heartbeat) {
      v1::Event beat;
      beat.set_job_id(job_id_);
      beat.mutable_heartbeat();
      write(std::move(beat), now);
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
  // The next events into pending_; sets last_ when nothing can follow them.
  Status fetch() {
    EMOE_ASSIGN_OR_RETURN(auto events, hub_.store_.events(job_id_, next_, hub_.config_.batch));
    const bool full = static_cast<int>(events.size()) == hub_.config_.batch;
    if (events.empty() || (full && caught_up_)) {
      EMOE_ASSIGN_OR_RETURN(const JobRecord record, hub_.store_.job(job_id_));
      const int64_t missed = record.next_sequence - next_;
      if (caught_up_ && missed > hub_.config_.max_lag) {
        v1::Event lagged;
        lagged.set_job_id(job_id_);
        lagged.mutable_lagged()->set_missed(missed);
        lagged.mutable_lagged()->set_resume_from_sequence(next_);
        pending_.push_back(std::move(lagged));
        last_ = true;
        return ok_status();
      }
      // An ended job has no further events (missed is 0 unless some came just now).
      if (events.empty() && missed == 0 && is_terminal(record.job.state())) last_ = true;
    }
    caught_up_ = caught_up_ || !full;
    for (v1::Event& event : events) {
      next_ = event.sequence() + 1;
      pending_.push_back(std::move(event));
    }
    return ok_status();
  }

  void write(v1::Event event, SteadyTime now) {
    if (event.has_state_change() && is_terminal(event.state_change().to())) last_ = true;
    if (event.has_lagged()) last_ = true;
    const std::lock_guard lock(mutex_);
    event_ = std::move(event);
    writing_ = true;
    last_write_ = now;
    stream_->write(event_);
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
  bool caught_up_ = false;
  bool last_ = false;
  std::deque<v1::Event> pending_;
  SteadyTime last_write_ = hub_.clock_.steady_now();
  // Shared with the stream's threads.
  std::mutex mutex_;
  v1::Event event_;
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
  EMOE_ASSIGN_OR_RETURN(const JobRecord record, store_.job(job_id));
  if (from_sequence < 0 || from_sequence > record.next_sequence) {
    return make_error(StatusCode::kOutOfRange, "SEQUENCE_OUT_OF_RANGE",
                      absl::StrCat("from_sequence ", from_sequence, " is beyond the next event, ",
                                   record.next_sequence));
  }
  const EventStream* key = stream.get();
  auto watcher = std::make_shared<Watcher>(*this, job_id, std::max<int64_t>(from_sequence, 1),
                                           std::move(stream));
  const std::lock_guard lock(mutex_);
  watchers_[key] = {std::move(watcher), true};
  any_dirty_ = true;
  changed_.notify_one();
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
    if (entry.watcher->job_id() == job_id) entry.dirty = any_dirty_ = true;
  }
  if (any_dirty_) changed_.notify_one();
}

void WatchHub::wake(const EventStream* stream) {
  const std::lock_guard lock(mutex_);
  const auto found = watchers_.find(stream);
  if (found == watchers_.end()) return;
  found->second.dirty = any_dirty_ = true;
  changed_.notify_one();
}

void WatchHub::drain(const Status& status) {
  const std::lock_guard lock(mutex_);
  draining_ = status;
  for (auto& [key, entry] : watchers_) entry.dirty = true;
  any_dirty_ = true;
  changed_.notify_one();
}

void WatchHub::stop() {
  thread_ = {};  // asks and joins
}

size_t WatchHub::watchers() const {
  const std::lock_guard lock(mutex_);
  return watchers_.size();
}

void WatchHub::run(const std::stop_token& stop) {
  while (!stop.stop_requested()) {
    std::vector<std::shared_ptr<Watcher>> work;
    std::optional<Status> draining;
    {
      std::unique_lock lock(mutex_);
      // Without news, a look at every stream now and then for the heartbeats.
      const bool news =
          changed_.wait_for(lock, stop, config_.heartbeat / 5, [&] { return any_dirty_; });
      if (stop.stop_requested()) return;
      for (auto& [key, entry] : watchers_) {
        if (!news || entry.dirty) work.push_back(entry.watcher);
        entry.dirty = false;
      }
      any_dirty_ = false;
      draining = draining_;
    }
    for (const auto& watcher : work) {
      const Status pumped = without_exceptions([&] {
        watcher->pump(clock_.steady_now(), draining);
        return ok_status();
      });
      if (!pumped.ok()) watcher->finish(pumped);  // this stream's only
    }
  }
}

}  // namespace emoe::server
