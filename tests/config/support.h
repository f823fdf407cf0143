#pragma once

#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "base/diagnostics.h"
#include "config/config.h"
#include "config/validation.h"

namespace emoe::config {

// The violations of a text as "location: field: reason", one each.
inline std::vector<std::string> problems_of(const Status& status) {
  std::vector<std::string> lines;
  for (const auto& violation : violations_of(status)) lines.push_back(to_string(violation));
  return lines;
}

// A text's job, or what is wrong with its structure.
inline Result<LoadedJob> read_job(const std::string& yaml, const std::string& name,
                                  const std::vector<std::string>& overrides) {
  Diagnostics diagnostics;
  LoadedJob job = parse_job(yaml, name, overrides, diagnostics);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  return job;
}

inline std::vector<std::string> parse_problems(const std::string& yaml,
                                               const std::vector<std::string>& overrides = {}) {
  return problems_of(read_job(yaml, "job.yaml", overrides).status());
}

// What the reader and validate() say of a text.
inline std::vector<std::string> rule_problems(const std::string& yaml,
                                              const std::vector<std::string>& overrides = {}) {
  Diagnostics diagnostics;
  const LoadedJob job = parse_job(yaml, "job.yaml", overrides, diagnostics);
  validate(resolve(job.spec), job.locations, diagnostics);
  return problems_of(diagnostics.to_status());
}

inline bool contains(const std::vector<std::string>& lines, const std::string& text) {
  for (const auto& line : lines) {
    if (line.find(text) != std::string::npos) return true;
  }
  return false;
}

inline std::string joined(const std::vector<std::string>& lines) {
  std::string out;
  for (const auto& line : lines) out += "\n  " + line;
  return out;
}

#define EXPECT_PROBLEM(lines, text) \
  EXPECT_TRUE(contains(lines, text)) << text << " in" << joined(lines)

}  // namespace emoe::config
