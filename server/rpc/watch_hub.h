#pragma once

#include <chrono>
#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include <grpcpp/support/server_callback.h>

#include "base/clock.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"
#include "server/job/job_store.h"

namespace emoe::server {

// All WatchJob streams, served by one thread however many there are and however slowly they read:
// each has at most one batch of events in memory and one write under way; the events themselves are
// in the store. A watcher that had caught up and then falls more than max_lag events behind gets
// a `lagged` event and its stream ends. Thread-safe.
class WatchHub {
 public:
  struct Config {
    std::chrono::milliseconds heartbeat{5000};  // of silence
    int batch = 128;
    int64_t max_lag = 1000;
  };

  WatchHub(Config config, JobStore& store, const Clock& clock);
  ~WatchHub();  // ends all streams; the server must have been shut down before

  // A new stream. The reactor belongs to gRPC until its OnDone.
  [[nodiscard]] grpc::ServerWriteReactor<v1::Event>* watch(const v1::WatchJobRequest& request);
  // The job has new events; returns at once.
  void notify(const std::string& job_id);
  // Ends all streams with this status, and every later one at once.
  void drain(const Status& status);
  // Ends the hub's thread. Once gRPC has no stream any more and before its server goes: the thread
  // may still be on its way out of the last call into gRPC.
  void stop();
  [[nodiscard]] size_t watchers() const;

 private:
  class Watcher;
  void run(const std::stop_token& stop);
  void wake(const Watcher* watcher);
  void forget(const Watcher* watcher);

  const Config config_;
  JobStore& store_;
  const Clock& clock_;
  mutable std::mutex mutex_;
  std::condition_variable_any changed_;
  struct Entry {
    std::shared_ptr<Watcher> watcher;
    bool dirty = true;
  };
  std::map<const Watcher*, Entry> watchers_;
  bool any_dirty_ = false;
  std::optional<Status> draining_;
  std::jthread thread_;  // last: stops before what it uses goes
};

}  // namespace emoe::server
