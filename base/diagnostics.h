#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "base/warning.h"

namespace emoe {

// One problem of a user's input.
struct Violation {
  std::string location;  // "job.yaml:12", "train.jsonl:1234" (1-based lines), or empty
  std::string field;     // "optimizer.learning_rate", or empty for a file as a whole
  std::string reason;    // what is wrong and what to do, one sentence, no final dot
};

// Collects every problem of an input, so that a user can mend all of them at once, and what is to be
// said of an input that is taken all the same. Not thread-safe.
class Diagnostics {
 public:
  // At most `limit` violations are kept (a bad data set has one per row); the rest is counted.
  explicit Diagnostics(size_t limit = 100) : limit_(limit) {}

  void add(std::string location, std::string field, std::string reason);
  void add(std::string field, std::string reason) { add("", std::move(field), std::move(reason)); }

  // The same warning told again takes the place of the earlier one. Texts may quote what a user
  // wrote, in any bytes.
  void warn(Warning warning);
  // Makes each warning a violation too (data.strict), but for those that pass it.
  void forbid_warnings();
  [[nodiscard]] const std::vector<Warning>& warnings() const { return warnings_; }

  // Of violations; warnings do not count.
  [[nodiscard]] bool empty() const { return violations_.empty(); }
  [[nodiscard]] size_t size() const { return violations_.size() + dropped_; }
  [[nodiscard]] const std::vector<Violation>& violations() const { return violations_; }

  // OK when empty; else `code` (INVALID_ARGUMENT) whose message has a line "location: field:
  // reason" for each, and whose payload carries them for violations_of().
  [[nodiscard]] Status to_status(StatusCode code = StatusCode::kInvalidArgument) const;

 private:
  size_t limit_;
  size_t dropped_ = 0;
  std::vector<Violation> violations_;
  std::vector<Warning> warnings_;
};

// "job.yaml:12: optimizer.learning_rate: must be above 0"
[[nodiscard]] std::string to_string(const Violation& violation);

// The violations a status carries (empty if it carries none), and how many more there were.
[[nodiscard]] std::vector<Violation> violations_of(const Status& status);
[[nodiscard]] size_t dropped_violations_of(const Status& status);

}  // namespace emoe
