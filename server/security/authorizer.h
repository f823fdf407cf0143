#pragma once

#include <array>
#include <string_view>

#include "base/status.h"
#include "server/security/principal.h"

namespace emoe::server {

// What a method of emoe.v1.FineTuning takes. This table is all that there is about it; a method without a
// row is refused to everybody.
struct MethodRule {
  const char* method;
  Role least;    // role, of which every later one is more
  bool changes;  // leaves an audit line
};

inline constexpr std::array kMethodRules = {
    MethodRule{"CreateJob", Role::user, true},
    MethodRule{"CreateJobs", Role::user, true},
    MethodRule{"PlanJob", Role::user, false},  // it reads files, as CreateJob does
    MethodRule{"GetJob", Role::viewer, false},
    MethodRule{"ListJobs", Role::viewer, false},
    MethodRule{"UpdateJob", Role::user, true},
    MethodRule{"CancelJob", Role::user, true},
    MethodRule{"PauseJob", Role::user, true},
    MethodRule{"ResumeJob", Role::user, true},
    MethodRule{"DeleteJob", Role::user, true},
    MethodRule{"WatchJob", Role::viewer, false},
    MethodRule{"ListMetrics", Role::viewer, false},
    MethodRule{"ListCheckpoints", Role::viewer, false},
    MethodRule{"ExportCheckpoint", Role::user, true},
    MethodRule{"GetServerInfo", Role::viewer, false},
    MethodRule{"GetJobLogs", Role::viewer, false},
    MethodRule{"BackupDatabase", Role::admin, true},
    MethodRule{"ListAuditEntries", Role::admin, false},
};

// Null for a method that has none.
[[nodiscard]] const MethodRule* rule_of(std::string_view method);

// PERMISSION_DENIED / ROLE_TOO_LOW where the role is too little, whatever the job.
[[nodiscard]] Status check_role(std::string_view method, const Principal& principal);

}  // namespace emoe::server
