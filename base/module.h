#pragma once

#include <filesystem>
#include <string>

#include "base/status.h"

namespace emoe {

// A shared library of our own that is loaded when first needed, because what it links must not be
// linked into the programs. It lies beside the program (an installed or bundled one), else where the
// build put it.
struct Module {
  std::filesystem::path built;  // by CMake
  std::string entry;            // its function without arguments that returns its functions
  bool binds_itself = false;    // its own symbols go before the program's (RTLD_DEEPBIND)
};

// What the entry returns; the module stays loaded as long as the process. NOT_FOUND: there is no such
// file; FAILED_PRECONDITION: it cannot be loaded, with the loader's words.
[[nodiscard]] Result<const void*> load_module(const Module& module);

}  // namespace emoe
