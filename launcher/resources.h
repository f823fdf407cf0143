#pragma once

#include <cstdint>

namespace emoe::launcher {

// The resources that an attempt needs, or that an engine has. 0: none.
struct Resources {
  int64_t gpus = 0;
  int64_t cpus = 0;  // of a coordinator's slots: one for each rank

  bool operator==(const Resources&) const = default;
};

}  // namespace emoe::launcher
