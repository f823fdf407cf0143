#pragma once

#include <string>

#include "launcher/launcher.h"
#include "server/job/retry_policy.h"
#include "server/job/types.h"
#include "server/session/attempt_monitor.h"

namespace emoe::server {

// Puts together what the launcher saw, what the ranks said and what the coordinator found. Pure.

// Rank 0 reported a good end, and what the task owes: of train the merged model, published and
// verified, if one is wanted; of evaluate the losses.
[[nodiscard]] bool reported_success(const v1::Job& job, const AttemptRecord& attempt);

[[nodiscard]] AttemptOutcome outcome_of(const v1::Job& job, const AttemptRecord& attempt,
                                        const launcher::AttemptEnd& end);

// "rank 1 on host n2 in step 37, phase backward: signal 9; <detail>"
[[nodiscard]] std::string end_message(const AttemptRecord& attempt, const AttemptMonitor& monitor,
                                      const AttemptOutcome& outcome,
                                      const launcher::AttemptEnd& end);

// Whether attempts are left after `more` further failures.
[[nodiscard]] bool may_retry(const JobRecord& record, int more);

}  // namespace emoe::server
