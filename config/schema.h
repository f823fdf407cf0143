#pragma once

#include <optional>
#include <string>
#include <vector>

#include <google/protobuf/message.h>

namespace emoe::config {

// A side of a range; `open` leaves the bound itself out.
struct Bound {
  double value = 0.0;
  bool open = false;
};
[[nodiscard]] inline Bound at_least(double value) {
  return {value, false};
}
[[nodiscard]] inline Bound above(double value) {
  return {value, true};
}
[[nodiscard]] inline Bound at_most(double value) {
  return {value, false};
}
[[nodiscard]] inline Bound below(double value) {
  return {value, true};
}

// What is known about one key. Every field of a schema's message has one of these, in the order of
// the proto file (a test compares them by reflection).
struct FieldRule {
  std::string key;       // "optimizer.learning_rate"
  std::string fallback;  // the default as YAML ("{}": the message with its own defaults); "": none
  std::optional<Bound> low;  // numbers and durations (seconds); doubles are finite in any case
  std::optional<Bound> high;
  std::vector<std::string> words;  // the only values of a text (or of a list's texts); {}: any
  bool required = false;           // once the message it lies in is there
  bool path = false;               // names a file or folder
  size_t max_bytes = 4096;         // of a text
};

// A message as configuration: its fields with defaults and ranges. Rules across keys are functions
// (job_rules.cc).
using Schema = std::vector<FieldRule>;

[[nodiscard]] const Schema& job_schema();
[[nodiscard]] const Schema& coordinator_schema();

}  // namespace emoe::config
