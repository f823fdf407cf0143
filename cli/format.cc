#include "cli/format.h"

#include <algorithm>
#include <cmath>

#include <absl/strings/str_format.h>

namespace emoe::cli {
namespace {

// Bytes of the code point that begins at `i`; 1 for a byte that belongs to none.
size_t code_point_length(const std::string& text, size_t i) {
  const auto byte = [&text](size_t at) { return static_cast<unsigned char>(text[at]); };
  const unsigned lead = byte(i);
  const size_t length = lead >= 0xF8 || lead < 0xC0 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  for (size_t next = i + 1; next < i + length; ++next) {
    if (next >= text.size() || (byte(next) & 0xC0U) != 0x80U) return 1;
  }
  return length;
}

// The code points of a UTF-8 text as substrings; a broken byte is one of its own.
std::vector<std::string> code_points(const std::string& text) {
  std::vector<std::string> out;
  for (size_t i = 0; i < text.size(); i += out.back().size()) {
    out.push_back(text.substr(i, code_point_length(text, i)));
  }
  return out;
}

uint32_t value_of(const std::string& point) {
  if (point.size() == 1) return static_cast<unsigned char>(point[0]);
  uint32_t value = static_cast<unsigned char>(point[0]) & (0xFFu >> (point.size() + 1));
  for (size_t i = 1; i < point.size(); ++i) {
    value = value << 6 | (static_cast<unsigned char>(point[i]) & 0x3Fu);
  }
  return value;
}

int columns_of(const std::string& point) {
  const uint32_t c = value_of(point);
  if ((c >= 0x300 && c <= 0x36F) || c == 0x200B || c == 0x200D || c == 0xFE0F) return 0;
  const bool wide = (c >= 0x1100 && c <= 0x115F) || (c >= 0x2E80 && c <= 0xA4CF) ||
                    (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0xF900 && c <= 0xFAFF) ||
                    (c >= 0xFE30 && c <= 0xFE6F) || (c >= 0xFF00 && c <= 0xFF60) ||
                    (c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x20000 && c <= 0x3FFFD);
  return wide ? 2 : 1;
}

// As many leading (or trailing) code points as fit.
std::string fitting(const std::vector<std::string>& points, int width, bool from_end) {
  std::string out;
  for (size_t i = 0; i < points.size(); ++i) {
    const std::string& point = points[from_end ? points.size() - 1 - i : i];
    width -= columns_of(point);
    if (width < 0) break;
    out.insert(from_end ? 0 : out.size(), point);
  }
  return out;
}

std::string without_control(const std::string& text, const std::string& kept) {
  std::string out;
  for (const auto& point : code_points(text)) {
    const uint32_t c = value_of(point);
    const bool broken = point.size() == 1 && c >= 0x80;
    const bool control = c < 0x20 || (c >= 0x7F && c < 0xA0);
    if (broken) {
      out += "\uFFFD";
    } else if (control && kept.find(static_cast<char>(c)) == std::string::npos) {
      out += ' ';
    } else {
      out += point;
    }
  }
  return out;
}

}  // namespace

double seconds_of(const google::protobuf::Timestamp& time) {
  return static_cast<double>(time.seconds()) + static_cast<double>(time.nanos()) * 1e-9;
}

std::string age(const google::protobuf::Timestamp& time, WallTime now) {
  if (time.seconds() == 0 && time.nanos() == 0) return "-";
  const double now_seconds = std::chrono::duration<double>(now.time_since_epoch()).count();
  const auto seconds = std::max<int64_t>(0, static_cast<int64_t>(now_seconds - seconds_of(time)));
  if (seconds < 60) return absl::StrFormat("%ds", seconds);
  if (seconds < 3600) return absl::StrFormat("%dm", seconds / 60);
  if (seconds < 86'400) return absl::StrFormat("%dh", seconds / 3600);
  return absl::StrFormat("%dd", seconds / 86'400);
}

std::string relative_time(const google::protobuf::Timestamp& time, WallTime now) {
  const std::string past = age(time, now);
  if (past == "-") return "-";
  return past == "0s" ? "just now" : past + " ago";
}

std::string human_seconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "-";
  const auto s = static_cast<int64_t>(std::llround(seconds));
  if (s < 60) return absl::StrFormat("%ds", s);
  if (s < 3600) return absl::StrFormat("%dm%02ds", s / 60, s % 60);
  if (s < 86'400) return absl::StrFormat("%dh%02dm", s / 3600, s / 60 % 60);
  return absl::StrFormat("%dd%02dh", s / 86'400, s / 3600 % 24);
}

std::string human_bytes(int64_t bytes) {
  const char* const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (std::fabs(value) >= 1024 && unit + 1 < std::size(units)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? absl::StrFormat("%d B", bytes)
                   : absl::StrFormat("%.1f %s", value, units[unit]);
}

std::string human_count(double count) {
  if (!std::isfinite(count)) return "-";
  if (count < 1000) return absl::StrFormat("%.0f", count);
  if (count < 1e6) return absl::StrFormat("%.1fk", count / 1e3);
  if (count < 1e9) return absl::StrFormat("%.2fM", count / 1e6);
  return absl::StrFormat("%.2fG", count / 1e9);
}

std::string human_number(double value) {
  const double magnitude = std::fabs(value);
  if (!std::isfinite(value) || value == 0) return absl::StrFormat("%g", value);
  if (magnitude < 1e-3 || magnitude >= 1e6) return absl::StrFormat("%.4g", value);
  return absl::StrFormat("%.4f", value);
}

int display_width(const std::string& text) {
  int width = 0;
  for (const auto& point : code_points(text)) width += columns_of(point);
  return width;
}

std::string shorten_middle(const std::string& text, int width) {
  if (display_width(text) <= width) return text;
  if (width <= 1) return width == 1 ? "…" : "";
  const auto points = code_points(text);
  const int tail = (width - 1) / 2;
  return fitting(points, width - 1 - tail, false) + "…" + fitting(points, tail, true);
}

std::string shorten_end(const std::string& text, int width) {
  if (display_width(text) <= width) return text;
  if (width <= 1) return width == 1 ? "…" : "";
  return fitting(code_points(text), width - 1, false) + "…";
}

std::vector<std::string> wrapped(const std::string& text, int width) {
  if (width <= 0) return {text};
  std::vector<std::string> lines(1);
  int used = 0;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(' ', begin), text.size());
    const std::string word = text.substr(begin, end - begin);
    const int columns = display_width(word);
    if (used > 0 && used + 1 + columns > width) {
      lines.emplace_back();
      used = 0;
    }
    if (used > 0) lines.back() += ' ';
    lines.back() += word;
    used += columns + (used > 0 ? 1 : 0);
    begin = end + 1;
  }
  return lines;
}

std::string printable(const std::string& text) {
  return without_control(text, "");
}

std::string printable_lines(const std::string& text) {
  return without_control(text, "\n\t");
}

}  // namespace emoe::cli
