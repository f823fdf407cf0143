#include "base/diagnostics.h"

#include <absl/strings/cord.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_split.h>

#include "base/utf8.h"

namespace emoe {
namespace {

constexpr char kPayloadType[] = "emoe/violations";
// Unit and record separators of ASCII; add() takes them out of what a user wrote.
constexpr char kUnit = '\x1f';
constexpr char kRecord = '\x1e';

// A key or a row quoted from a bad file may hold anything; a violation is one line of text.
std::string on_one_line(std::string text) {
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20 || c == '\x7f') c = ' ';
  }
  return text;
}

}  // namespace

void Diagnostics::add(std::string location, std::string field, std::string reason) {
  if (violations_.size() >= limit_) {
    ++dropped_;
    return;
  }
  violations_.push_back({on_one_line(std::move(location)), on_one_line(std::move(field)),
                         on_one_line(std::move(reason))});
}

void Diagnostics::warn(Warning warning) {
  for (std::string* text : {&warning.text, &warning.where, &warning.first}) {
    *text = on_one_line(to_valid_utf8(*text));
  }
  merge_warning(warnings_, std::move(warning));
}

void Diagnostics::forbid_warnings() {
  for (const Warning& warning : warnings_) {
    if (!is_error_when_strict(warning)) continue;
    add(warning.where,
        absl::StrCat(warning.text, warning.first.empty() ? "" : ", first " + warning.first, " (",
                     warning.code, ", an error with data.strict)"));
  }
}

std::string to_string(const Violation& violation) {
  std::string text;
  for (const std::string* part : {&violation.location, &violation.field}) {
    if (!part->empty()) absl::StrAppend(&text, *part, ": ");
  }
  return text + violation.reason;
}

Status Diagnostics::to_status(StatusCode code) const {
  if (empty()) return ok_status();
  std::string message;
  std::string payload;
  for (const Violation& v : violations_) {
    absl::StrAppend(&message, message.empty() ? "" : "\n", to_string(v));
    payload += v.location + kUnit + v.field + kUnit + v.reason + kRecord;
  }
  if (dropped_ > 0) {
    absl::StrAppend(&message, "\n… and ", dropped_, " more");
    absl::StrAppend(&payload, dropped_);
  }
  Status status(code, message);
  status.SetPayload(kPayloadType, absl::Cord(payload));
  return status;
}

size_t dropped_violations_of(const Status& status) {
  const auto payload = status.GetPayload(kPayloadType);
  if (!payload) return 0;
  const std::string flat(*payload);
  size_t dropped = 0;
  return absl::SimpleAtoi(flat.substr(flat.rfind(kRecord) + 1), &dropped) ? dropped : 0;
}

std::vector<Violation> violations_of(const Status& status) {
  std::vector<Violation> violations;
  const auto payload = status.GetPayload(kPayloadType);
  if (!payload) return violations;
  const std::string flat(*payload);
  for (absl::string_view record : absl::StrSplit(flat, kRecord, absl::SkipEmpty())) {
    const std::vector<std::string> parts = absl::StrSplit(record, kUnit);
    if (parts.size() == 3) violations.push_back({parts[0], parts[1], parts[2]});
  }
  return violations;
}

}  // namespace emoe
