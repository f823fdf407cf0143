#pragma once

#include <string>

namespace emoe {

// A new id, unique without coordination: `prefix`-yyyymmdd-hhmmss-xxxxxxxxxxxx, sortable by time (UTC)
// to a microsecond: the last part begins with the fraction of the second (five digits), the rest is
// random from the kernel. Safe in file names and labels.
[[nodiscard]] std::string new_id(const std::string& prefix);

// `bytes` random bytes from the kernel in lower-case hexadecimal.
[[nodiscard]] std::string random_hex(int bytes);

}  // namespace emoe
