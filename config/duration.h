#pragma once

#include <optional>
#include <string>

#include <google/protobuf/duration.pb.h>

namespace emoe::config {

// "90s", "5m", "1h30m", "2d", "250ms", and protobuf's JSON form "1.5s". Units fall from left to
// right, each at most once; only seconds have a fraction (nanoseconds at most). Nothing if the text
// is no duration or longer than protobuf allows (10,000 years).
[[nodiscard]] std::optional<google::protobuf::Duration> parse_duration(const std::string& text);

[[nodiscard]] inline double seconds_of(const google::protobuf::Duration& duration) {
  return static_cast<double>(duration.seconds()) + static_cast<double>(duration.nanos()) * 1e-9;
}

// "5400s", "0.25s": the shortest form that parse_duration() reads back exactly.
[[nodiscard]] std::string format_duration(const google::protobuf::Duration& duration);

}  // namespace emoe::config
