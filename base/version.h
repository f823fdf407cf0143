#pragma once

namespace emoe {

// Of all programs; the project's version in CMakeLists.txt.
inline constexpr char kVersion[] = EMOE_VERSION;

}  // namespace emoe
