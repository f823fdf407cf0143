#pragma once

#include <string>
#include <vector>

#include "cli/command.h"

namespace emoe::cli {

// The whole of emoectl but for its main(): arguments without the program's name in, exit code out.
int run(const std::vector<std::string>& arguments, Terminal& terminal);

}  // namespace emoe::cli
