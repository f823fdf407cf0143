#pragma once

#include <cstdint>
#include <string>

#include <google/protobuf/timestamp.pb.h>

#include "base/clock.h"

namespace emoe::cli {

// "just now", "5 s ago", "3 min ago", "2 h ago", "4 d ago"; "-" for a time that is not set.
[[nodiscard]] std::string relative_time(const google::protobuf::Timestamp& time, WallTime now);
// "45s", "1m20s", "3h05m", "2d04h"; "-" for a negative or non-finite number.
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
// At most `width` columns: the middle gives way to "…".
[[nodiscard]] std::string shorten_middle(const std::string& text, int width);
// At most `width` columns: the end gives way to "…".
[[nodiscard]] std::string shorten_end(const std::string& text, int width);
// One line without control characters: text of users and processes cannot move the cursor.
[[nodiscard]] std::string printable(const std::string& text);

}  // namespace emoe::cli
