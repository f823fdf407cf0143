#include "cli/format.h"

#include <algorithm>
#include <cmath>
#include <ctime>

#include <absl/strings/str_format.h>

#include "base/utf8.h"

namespace emoe::cli {
namespace {

struct Point {
  std::string text;   // UTF-8, or a byte that is none
  uint32_t code = 0;  // of such a byte 0xFFFD
};

std::vector<Point> code_points(const std::string& text) {
  std::vector<Point> out;
  for (size_t i = 0; i < text.size(); i += out.back().text.size()) {
    const Utf8Character next = first_character(std::string_view(text).substr(i));
    out.push_back(next.bytes == 0 ? Point{text.substr(i, 1), 0xFFFD}
                                  : Point{text.substr(i, next.bytes), next.code});
  }
  return out;
}

int columns_of(uint32_t c) {
  if ((c >= 0x300 && c <= 0x36F) || c == 0x200B || c == 0x200D || c == 0xFE0F) return 0;
  const bool wide = (c >= 0x1100 && c <= 0x115F) || (c >= 0x2E80 && c <= 0xA4CF) ||
                    (c >= 0xAC00 && c <= 0xD7A3) || (c >= 0xF900 && c <= 0xFAFF) ||
                    (c >= 0xFE30 && c <= 0xFE6F) || (c >= 0xFF00 && c <= 0xFF60) ||
                    (c >= 0x1F300 && c <= 0x1FAFF) || (c >= 0x20000 && c <= 0x3FFFD);
  return wide ? 2 : 1;
}

// As many leading (or trailing) code points as fit.
std::string fitting(const std::vector<Point>& points, int width, bool from_end) {
  std::string out;
  for (size_t i = 0; i < points.size(); ++i) {
    const Point& point = points[from_end ? points.size() - 1 - i : i];
    width -= columns_of(point.code);
    if (width < 0) break;
    out.insert(from_end ? 0 : out.size(), point.text);
  }
  return out;
}

std::string without_control(const std::string& text, const std::string& kept) {
  std::string out;
  for (const auto& [point, c] : code_points(to_valid_utf8(text))) {
    const bool control = c < 0x20 || (c >= 0x7F && c < 0xA0);
    out += control && kept.find(static_cast<char>(c)) == std::string::npos ? " " : point;
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
  return human_seconds(static_cast<double>(seconds));
}

std::string time_text(const google::protobuf::Timestamp& time) {
  if (time.seconds() == 0 && time.nanos() == 0) return "-";
  const std::time_t seconds = time.seconds();
  std::tm parts{};
  localtime_r(&seconds, &parts);
  return absl::StrFormat("%04d-%02d-%02d %02d:%02d:%02d", parts.tm_year + 1900, parts.tm_mon + 1,
                         parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

std::string relative_time(const google::protobuf::Timestamp& time, WallTime now) {
  const std::string past = age(time, now);
  if (past == "-") return "-";
  return past == "0s" ? "just now" : past + " ago";
}

std::string human_seconds(double seconds) {
  if (!std::isfinite(seconds) || seconds < 0 || seconds > 1e12) return "-";
  if (seconds < 9.995) return absl::StrFormat("%.3gs", seconds);
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
  for (const Point& point : code_points(text)) width += columns_of(point.code);
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
