#pragma once

#include <cstdint>
#include <string>

#include "base/process.h"

namespace emoe {

// A figure of this process in bytes, as /proc/self/status has it: "VmRSS", "VmHWM" (the most VmRSS
// has been); 0 where there is none.
[[nodiscard]] int64_t process_memory(const std::string& name);

// "AMD EPYC 9454 48-Core Processor", as /proc/cpuinfo calls this machine's; "processor" where it does
// not.
[[nodiscard]] std::string processor_name();

// Whether /proc/cpuinfo lists this flag: "avx512_bf16".
[[nodiscard]] bool processor_has(const std::string& flag);

// Bytes of memory that the processes of this machine may use: what it has, and no more than the
// limits of this process's control group and of those around it. 0 where that cannot be read.
[[nodiscard]] int64_t usable_memory(const ControlGroups& groups = {});

}  // namespace emoe
