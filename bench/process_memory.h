#pragma once

#include <cstdint>
#include <fstream>
#include <string>

namespace emoe::worker {

// A figure of this process in bytes, as /proc/self/status has it: "VmRSS", "VmHWM" (the most VmRSS
// has been); 0 where there is none.
inline int64_t process_memory(const std::string& name) {
  std::ifstream status("/proc/self/status");
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with(name + ":")) return std::stoll(line.substr(name.size() + 1)) * 1024;
  }
  return 0;
}

}  // namespace emoe::worker
