#pragma once

namespace emoe::worker::cuda {

// Of libemoe_cuda.so as a whole: raised whenever one of its tables changes, so that a module left over
// from another build is refused and not called with other arguments.
inline constexpr int kModuleVersion = 1;
inline constexpr char kModuleEntry[] = "emoe_cuda_module";

}  // namespace emoe::worker::cuda
