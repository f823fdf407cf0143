#pragma once

#include <functional>

#include "base/status.h"

namespace emoe::server {

// For tests of what a kill -9 leaves behind: with EMOE_TEST_DIE_AT_COMMIT=FILE this program kills itself before a
// commit of its database. While FILE is there each commit takes one off the number in it, and the one that finds
// 0 removes it and dies. For JobStore::Config::before_commit; empty without the variable.
[[nodiscard]] std::function<Status()> death_at_commit();

}  // namespace emoe::server
