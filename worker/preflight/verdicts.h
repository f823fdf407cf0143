#pragma once

#include <optional>
#include <string>
#include <vector>

#include "worker/report/preflight_record.h"

namespace emoe::worker {

// What a number of a preflight should be. The one table of them, with the reasons, is in verdicts.cc.
struct Expectation {
  const char* check;
  const char* unit;  // how the number is shown: "bytes", "bytes/s", "s", ""
  bool
      more_is_better;  // a number beyond `warn`, or beyond `bad`, on the wrong side gets that verdict
  double warn;
  double bad;
  const char* advice;
};

// The row of a measured number; its check is one of the table's.
[[nodiscard]] PreflightRow judged(const std::string& check, double value);
// The same with what else is to be shown of it: "7.9 GB/s (16 MiB in 4.0 ms)".
[[nodiscard]] PreflightRow judged(const std::string& check, double value, const std::string& more);
// A row that is only shown.
[[nodiscard]] PreflightRow noted(const std::string& check, const std::string& value);
// One that is wrong whatever the number.
[[nodiscard]] PreflightRow failed(const std::string& check, const std::string& value,
                                  const std::string& advice);

// Ranks must have the same program and libraries: of rows "version of …" those whose value is not that of the
// first rank get a verdict.
void compare_versions(std::vector<PreflightRow>& rows);

// "2 checks are bad: open files of rank 1 on host n2 is 128 (raise …); …"; empty where none is.
[[nodiscard]] std::string bad_rows_text(const std::vector<PreflightRow>& rows);

}  // namespace emoe::worker
