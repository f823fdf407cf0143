#pragma once

#include <map>
#include <string>

#include "base/clock.h"
#include "base/status.h"

namespace emoe::server {

// Logs failures that repeat in every round: a new one at once, the same one once a minute.
// Only the controller uses it, under its lock.
class FailureLog {
 public:
  explicit FailureLog(const Clock& clock) : clock_(clock) {}

  // "<what>: <message>", e.g. what = "job x: kill". OK is no failure and says nothing.
  void note(const std::string& what, const Status& status);

 private:
  const Clock& clock_;
  std::map<std::string, SteadyTime> told_;  // by line: when it was logged
};

}  // namespace emoe::server
