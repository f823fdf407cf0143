#include "server/control/measurement.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include <google/protobuf/util/time_util.h>

#include "server/job/time_estimate.h"

namespace emoe::server {
namespace {

using google::protobuf::util::TimeUtil;

double seconds_of_attempts(const v1::Job& job) {
  double seconds = 0;
  for (const v1::Attempt& attempt : job.attempts()) {
    const auto spent = attempt.end_time() - attempt.start_time();
    seconds += static_cast<double>(TimeUtil::DurationToNanoseconds(spent)) * 1e-9;
  }
  return seconds;
}

Status add_steps(const std::string& id, JobStore& store, v1::Measured& measured) {
  constexpr int kPage = 1000;
  double seconds = 0;
  int64_t tokens = 0;
  for (int64_t from = 0;;) {
    EMOE_ASSIGN_OR_RETURN(const auto steps, store.steps(id, from, kPage));
    for (const v1::StepMetrics& step : steps) {
      seconds += step.seconds();
      tokens += step.tokens();
    }
    if (steps.size() < kPage) break;
    from = steps.back().step() + 1;
  }
  measured.set_step_seconds(seconds);
  measured.set_tokens(tokens);
  return ok_status();
}

// An evaluation has no steps: from when rank 0 began with the rows to the end of the attempt.
Result<double> seconds_of_evaluation(const v1::Job& job, JobStore& store) {
  constexpr int kPage = 1000;
  for (int64_t from = 1;;) {
    EMOE_ASSIGN_OR_RETURN(const auto events, store.events(job.id(), from, kPage));
    for (const v1::Event& event : events) {
      if (event.phase().phase() != "evaluate") continue;
      const auto spent = job.attempts(job.attempts_size() - 1).end_time() - event.time();
      return static_cast<double>(TimeUtil::DurationToNanoseconds(spent)) * 1e-9;
    }
    if (events.size() < kPage) return 0.0;
    from = events.back().sequence() + 1;
  }
}

// Its time is that of the whole job where one attempt did everything.
bool is_lesson(const v1::Job& job) {
  if (job.attempts_size() != 1 || job.attempts(0).number() != 1 || job.has_export_of() ||
      job.measured().machine().empty() || !job.plan().has_memory()) {
    return false;
  }
  if (!job.plan().has_work()) return true;  // a merge, a conversion
  return job.plan().work().tokens() > 0 && job.measured().step_seconds() > 0;
}

FinishedRunRecord lesson_of(const v1::Job& job, WallTime now) {
  const v1::Plan& plan = job.plan();
  const v1::Measured& measured = job.measured();
  // Of a training the tokens are counted, for its plan may have had to guess them.
  const double done = measured.tokens() == 0 ? 1.0
                                             : static_cast<double>(measured.tokens()) /
                                                   static_cast<double>(plan.work().tokens());
  const int64_t weights = std::max(plan.disk().export_bytes(), plan.memory().base());
  return {.job_id = job.id(),
          .machine = kind_of_run(measured.machine(), job.resolved_spec().task()),
          .run = {.size = {.flops_per_rank = plan.work().flops() * done / ranks_of(job),
                           .steps = static_cast<double>(plan.work().steps()),
                           .weight_bytes = static_cast<double>(weights)},
                  .step_seconds = measured.step_seconds(),
                  .other_seconds = std::max(measured.seconds() - measured.step_seconds(), 0.0)},
          .time = now};
}

}  // namespace

void add_usage(const v1::RankUsage& usage, v1::Measured& measured) {
  measured.set_rank_bytes(std::max(measured.rank_bytes(), usage.rank_bytes()));
  measured.set_device_bytes(std::max(measured.device_bytes(), usage.device_bytes()));
  if (usage.export_bytes() > 0) measured.set_export_bytes(usage.export_bytes());
  if (usage.cache_bytes() > 0) measured.set_cache_bytes(usage.cache_bytes());
  if (!usage.machine().empty()) measured.set_machine(usage.machine());
}

Status measure(JobEdit& edit, JobStore& store, const Clock& clock) {
  v1::Measured& measured = *edit.job().mutable_measured();
  measured.set_seconds(seconds_of_attempts(edit.current()));
  EMOE_RETURN_IF_ERROR(add_steps(edit.current().id(), store, measured));
  if (edit.current().resolved_spec().task() == "evaluate") {
    EMOE_ASSIGN_OR_RETURN(const double seconds, seconds_of_evaluation(edit.current(), store));
    measured.set_step_seconds(seconds);
  }
  EMOE_ASSIGN_OR_RETURN(
      const auto checkpoints,
      store.checkpoints(edit.current().id(), std::numeric_limits<int64_t>::max()));
  if (!checkpoints.empty()) measured.set_checkpoint_bytes(checkpoints.front().bytes());
  if (edit.current().state() == v1::SUCCEEDED && is_lesson(edit.current())) {
    edit.rows().finished_run = lesson_of(edit.current(), clock.wall_now());
  }
  return ok_status();
}

}  // namespace emoe::server
