#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "server/job/job_store.h"

namespace emoe::server {

// Where a watcher's events go: a WatchStream of gRPC, a fake in tests. The hub calls both from its
// thread, one write at a time, finish() once and last; both return at once.
class EventStream {
 public:
  virtual ~EventStream() = default;
  // Answered by WatchHub::written(); `event` stays valid until then.
  virtual void write(const v1::Event& event) = 0;
  // Answered by WatchHub::closed().
  virtual void finish(const Status& status) = 0;
};

// All WatchJob streams, served by one thread however many there are and however slowly they read:
// each has at most one batch of events in memory and one write under way; the events themselves are
// in the store, which is asked when a job has news and once for all its streams that are as far. A watcher that had caught up and then falls more than max_lag events behind gets
// a `lagged` event and its stream ends; a fault in serving one ends it with INTERNAL. Thread-safe.
class WatchHub {
 public:
  struct Config {
    std::chrono::milliseconds heartbeat{5000};  // of silence
    int batch = 128;
    int64_t max_lag = 1000;
  };

  WatchHub(Config config, JobStore& store, const Clock& clock);
  ~WatchHub();  // ends all streams; the server must have been shut down before

  // Adds a stream, served until closed(). Not added on an error: NOT_FOUND / JOB_NOT_FOUND,
  // OUT_OF_RANGE / SEQUENCE_OUT_OF_RANGE, INTERNAL / STORE_FAILED.
  [[nodiscard]] Status watch(const std::string& job_id, int64_t from_sequence,
                             std::shared_ptr<EventStream> stream);
  // What happened to a stream; each returns at once.
  void written(const EventStream* stream, bool ok);
  void cancelled(const EventStream* stream);
  void closed(const EventStream* stream);

  // The job has new events; returns at once.
  void notify(const std::string& job_id);
  // Ends all streams with this status, and every later one at once.
  void drain(const Status& status);
  // Ends the hub's thread. Called when gRPC has no stream any more and before its server is
  // destroyed: the thread may still be returning from its last call into gRPC.
  void stop();
  [[nodiscard]] size_t watchers() const;

 private:
  class Watcher;
  class Round;
  struct Entry {
    std::shared_ptr<Watcher> watcher;
    bool dirty = false;  // it is in dirty_
    bool news = true;    // its job has events that it may not have seen
  };
  void run(const std::stop_token& stop);
  // Those to serve now, with whether there are news for them.
  struct Work {
    std::shared_ptr<Watcher> watcher;
    bool news = false;
  };
  [[nodiscard]] std::vector<Work> take_work_locked(bool all);
  void mark_locked(const EventStream* stream, Entry& entry);
  [[nodiscard]] std::shared_ptr<Watcher> find(const EventStream* stream) const;
  void wake(const EventStream* stream);

  const Config config_;
  JobStore& store_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  std::map<const EventStream*, Entry> watchers_;
  std::vector<const EventStream*> dirty_;  // may name some that are closed
  std::optional<Status> draining_;
  std::jthread thread_;  // last member: it stops before what it uses is destroyed
};

}  // namespace emoe::server
