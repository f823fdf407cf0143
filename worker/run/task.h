#pragma once

namespace emoe::worker {

class RankSession;

struct TaskResult {
  bool finished = false;  // false: stopped as asked, to be continued by another run
};

// What a job does once its ranks are ready: every rank makes the task of its plan and runs it once,
// in its session.
class Task {
 public:
  virtual ~Task() = default;
  // Collective: every rank ends in the same way, or throws what becomes its exit code (JobError and
  // the exceptions of the numeric code, see exit_code.h).
  [[nodiscard]] virtual TaskResult run(RankSession& session) = 0;
};

}  // namespace emoe::worker
