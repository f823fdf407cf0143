#pragma once

#include <string_view>

namespace emoe::internal {
// Logs file, line, condition and text, then aborts: a broken invariant is a bug, not an error to
// handle.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view text);
}  // namespace emoe::internal

// For bugs only. Bad input is a Status (or, in the numeric code of worker/, an exception).
#define EMOE_CHECK(condition, ...)                                   \
  do {                                                               \
    if (!(condition)) [[unlikely]] {                                 \
      ::emoe::internal::check_failed(__FILE__, __LINE__, #condition, \
                                     std::string_view(__VA_ARGS__)); \
    }                                                                \
  } while (false)
