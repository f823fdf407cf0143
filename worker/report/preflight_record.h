#pragma once

#include <string>
#include <vector>

namespace emoe::worker {

// One line of a preflight: what was measured at one rank, or by all together, and what it means.
struct PreflightRow {
  int rank = -1;  // -1: of all ranks together
  std::string host;
  std::string check;    // "open files", as in docs/OPERATIONS.md
  std::string value;    // "1024"
  std::string verdict;  // ok | warn | bad
  std::string advice;   // what to do; empty where all is well
};

struct PreflightRecord {
  std::vector<PreflightRow> rows;
};

}  // namespace emoe::worker
