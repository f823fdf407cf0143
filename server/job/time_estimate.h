#pragma once

#include "server/job/planner.h"

namespace emoe::server {

// The kind of run whose times are compared: the machine as its ranks report it (machine_kind()), and of
// other tasks than training the task: "AMD EPYC 9454, 2 threads, bfloat16, evaluate".
[[nodiscard]] std::string kind_of_run(const std::string& machine, const std::string& task);

// How long a run of this size takes where its ranks will be: on this machine, or (where they are elsewhere)
// on a machine as that of the newest run which finished with the same task, dtype, kind of GPU and threads.
// Nothing where none has finished there.
[[nodiscard]] std::optional<v1::TimePlan> estimate_run_time(const v1::JobSpec& resolved,
                                                            const RunSize& size, bool on_gpu,
                                                            const Capacity& capacity);

}  // namespace emoe::server
