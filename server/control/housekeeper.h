#pragma once

#include <chrono>
#include <optional>
#include <stop_token>

#include "base/clock.h"
#include "server/control/controller.h"
#include "server/job/job_store.h"

namespace emoe::server {

// What the database needs beside the calls, in pieces small enough that calls do not notice: moves the
// write-ahead log into it, forgets jobs that ended longer than `retention` ago, and gives the room they
// took back to the file system, so that file and log stay bounded. A large database, which a start does
// not check, is checked here once. main runs it in a thread of its own; `store`, `controller` and
// `clock` outlive it.
class Housekeeper {
 public:
  struct Config {
    std::chrono::milliseconds retention{};                // 0: ended jobs are kept
    std::chrono::milliseconds interval{50};               // between looks at the log
    std::chrono::milliseconds cleaning_interval{10'000};  // between looks for what to forget
  };
  Housekeeper(Config config, JobStore& store, Controller& controller, const Clock& clock);

  // One round, of everything that is due. Errors are logged; a later round tries again.
  void round(const std::stop_token& stop);
  void run(const std::stop_token& stop);

 private:
  void clean(const std::stop_token& stop);
  void verify(const std::stop_token& stop);

  const Config config_;
  JobStore& store_;
  Controller& controller_;
  const Clock& clock_;
  std::optional<SteadyTime> last_cleaning_;
  FailureLog failures_;
};

}  // namespace emoe::server
