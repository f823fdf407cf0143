#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

#include "config/config.h"

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

// Of lora.targets: every linear of the layers.
inline constexpr char kAllLinear[] = "all-linear";

constexpr int kMaxEntries = 4096;  // of a list; rules may search one once for each element

// Default, range and words of one key. Every field of a schema's message has one of these, in the order of
// the proto file (a test compares them by reflection).
struct FieldRule {
  std::string key;       // "optimizer.learning_rate"; of a list of messages, of each of them
  std::string fallback;  // the default as YAML ("{}": the message with its own defaults); "": none
  std::vector<std::string> tasks;  // those that use it; {}: every one
  std::optional<Bound> low;  // numbers and durations (seconds); doubles are finite in any case
  std::optional<Bound> high;
  std::vector<std::string> words;  // the only values of a text (or of a list's texts); {}: any
  bool required = false;           // once the message it lies in is there
  bool path = false;               // names a file or folder
  bool folder = false;             // the name of one folder or file in another, no path
  bool option = false;             // of a command line: begins with "-"
  bool memory = false;             // an amount of memory as Kubernetes writes it, or empty
  bool address = false;            // "host:port", "[::1]:7070"; port 0 to 65535
  bool reachable = false;          // an address that others connect to: not port 0
  size_t max_bytes = 4096;         // of a text
  int max_entries = kMaxEntries;   // of a list, or of the labels
};

// A message as configuration: its fields with defaults and ranges.
using Schema = std::vector<FieldRule>;

[[nodiscard]] const Schema& job_schema();
// Tasks that are not there yet count as training: the one violation of such a spec is its task, not
// every key.
[[nodiscard]] bool is_training(const v1::JobSpec& spec);
// Whether the spec's task uses the key.
[[nodiscard]] bool is_used(const FieldRule& rule, const v1::JobSpec& spec);
[[nodiscard]] const Schema& coordinator_schema();
[[nodiscard]] const Schema& token_schema();

// The input of a rule across keys.
struct RuleInput {
  const v1::JobSpec& spec;  // resolved
  ModelShape shape;         // 0: not known
  int i = 0;                // the element in question, for rules about each
};

// A rule that looks at more than one key of a job, or at the model. Rows do not lean on each other's
// order: each says by itself when it is broken.
struct JobRule {
  std::string key;  // that the violation names
  bool (*broken)(const RuleInput&);
  std::string reason;  // "${emoe.top_k}": the value of a key, or one of rule_values()
  enum { at_key, at_each } where = at_key;  // at_each: judged for each element of the list `key`
};
using JobRules = std::vector<JobRule>;

[[nodiscard]] const JobRules& spec_rules();         // of validate()
[[nodiscard]] const JobRules& model_rules();        // of validate_against_model()
[[nodiscard]] const JobRules& unsupported_rules();  // of reject_unsupported()

// Computed values usable as ${name} in JobRule::reason.
using RuleValues = std::map<std::string, std::string (*)(const RuleInput&)>;
[[nodiscard]] const RuleValues& rule_values();

}  // namespace emoe::config
