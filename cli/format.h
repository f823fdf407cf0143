#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <google/protobuf/timestamp.pb.h>

#include "base/clock.h"

namespace emoe::cli {

// Times and durations are written in one way wherever emoectl shows them to people: a duration by
// human_seconds(), a point in time by time_text(), or by how long it is ago.

// How long ago, in whole seconds, as human_seconds(); "-" for a time that is not set.
[[nodiscard]] std::string age(const google::protobuf::Timestamp& time, WallTime now);
// "just now", "5s ago", "3m20s ago", "2h00m ago"; "-" for a time that is not set.
[[nodiscard]] std::string relative_time(const google::protobuf::Timestamp& time, WallTime now);
// "2026-12-01 14:29:02", in this machine's time zone; "-" for a time that is not set.
[[nodiscard]] std::string time_text(const google::protobuf::Timestamp& time);
// "0.347s", "45s", "1m20s", "3h05m", "2d04h"; "-" for a negative or non-finite number.
[[nodiscard]] std::string human_seconds(double seconds);
// "512 B", "1.5 MiB"
[[nodiscard]] std::string human_bytes(int64_t bytes);
// "850", "12.3k", "1.25M"
[[nodiscard]] std::string human_count(double count);
// A loss or a rate with the digits a person wants: "1.2345", "2e-05".
[[nodiscard]] std::string human_number(double value);

[[nodiscard]] double seconds_of(const google::protobuf::Timestamp& time);

// Columns a UTF-8 text takes on a terminal (wide characters count two, combining ones none).
[[nodiscard]] int display_width(const std::string& text);
// At most `width` columns: the middle is replaced by "…".
[[nodiscard]] std::string shorten_middle(const std::string& text, int width);
// At most `width` columns: the end is replaced by "…".
[[nodiscard]] std::string shorten_end(const std::string& text, int width);
// Lines of at most `width` columns (0: one line), broken at spaces only: a path stays whole, so that
// it can be copied, and may be wider. At least one line.
[[nodiscard]] std::vector<std::string> wrapped(const std::string& text, int width);
// One line without control characters: text of users and processes cannot move the cursor. A byte
// that is no UTF-8 becomes U+FFFD.
[[nodiscard]] std::string printable(const std::string& text);
// The same for a text of many lines: line ends and tabs stay.
[[nodiscard]] std::string printable_lines(const std::string& text);

}  // namespace emoe::cli
