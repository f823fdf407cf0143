#pragma once

#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace emoe {

// (Abseil as Debian builds it has its own string_view: hand it std::string, not std::string_view.)
// Errors are values with gRPC's canonical codes; a call that can fail says so in its return type.
// The context chain reads outermost first: "job 7f3a: checkpoint step_00000050: manifest.json: …".
using absl::Status;
using absl::StatusCode;
template <typename T>
using Result = absl::StatusOr<T>;

inline Status ok_status() {
  return absl::OkStatus();
}

// Puts "context: " before the message and keeps code and payloads; an OK status stays as it is.
[[nodiscard]] Status with_context(Status status, const std::string& context);

// The canonical code for an errno value, with strerror's text ("open /x: No such file or
// directory").
[[nodiscard]] Status errno_status(int error_number, const std::string& what);

}  // namespace emoe

// Returns the error of an expression of type Status from the surrounding function.
#define EMOE_RETURN_IF_ERROR(expression)                        \
  do {                                                          \
    if (auto emoe_status_ = (expression); !emoe_status_.ok()) { \
      return emoe_status_;                                      \
    }                                                           \
  } while (false)

#define EMOE_CONCAT_INNER(a, b) a##b
#define EMOE_CONCAT(a, b) EMOE_CONCAT_INNER(a, b)

// EMOE_ASSIGN_OR_RETURN(auto x, f()); returns f's error, else defines x.
// NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in parentheses
#define EMOE_ASSIGN_OR_RETURN(lhs, expression) \
  EMOE_ASSIGN_OR_RETURN_INNER(EMOE_CONCAT(emoe_result_, __LINE__), lhs, expression)
#define EMOE_ASSIGN_OR_RETURN_INNER(result, lhs, expression) \
  auto result = (expression);                                \
  if (!result.ok()) return result.status();                  \
  lhs = std::move(result).value()
// NOLINTEND(bugprone-macro-parentheses)
