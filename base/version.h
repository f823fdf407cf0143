#pragma once

namespace emoe {

// The version of all programs: the project's in CMakeLists.txt.
[[nodiscard]] const char* version();

}  // namespace emoe
