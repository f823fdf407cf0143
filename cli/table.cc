#include "cli/table.h"

#include <algorithm>

#include "base/check.h"
#include "cli/format.h"

namespace emoe::cli {
namespace {

constexpr int kGap = 2;
constexpr int kNarrowest = 6;   // columns that an elastic column keeps
constexpr int kWholeRoom = 20;  // columns that it leaves to one whose text is wrapped

std::string padded(const std::string& text, int width, bool right) {
  const int missing = std::max(0, width - display_width(text));
  const std::string space(static_cast<size_t>(missing), ' ');
  return right ? space + text : text + space;
}

std::string without_trailing_space(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

// `text` behind `head`, wrapped at `width` columns, its further lines indented.
std::string with_whole_text(const std::string& head, const std::string& text, int width) {
  const std::string indent(static_cast<size_t>(display_width(head)), ' ');
  std::string out;
  for (const std::string& line : wrapped(text, width)) {
    out += without_trailing_space((out.empty() ? head : indent) + line) + "\n";
  }
  return out;
}

}  // namespace

void Table::add(std::vector<std::string> row) {
  EMOE_CHECK(row.size() == columns_.size());
  for (auto& cell : row) cell = printable(cell);
  rows_.push_back(std::move(row));
}

std::vector<size_t> Table::shown_columns() const {
  std::vector<size_t> shown;
  for (size_t c = 0; c < columns_.size(); ++c) {
    const bool empty =
        std::all_of(rows_.begin(), rows_.end(), [c](const auto& row) { return row[c] == "-"; });
    if (!columns_[c].optional || !empty) shown.push_back(c);
  }
  return shown;
}

std::vector<int> Table::column_widths(const std::vector<size_t>& shown, int width) const {
  std::vector<int> widths;
  int total = -kGap;
  for (const size_t c : shown) {
    int widest = display_width(columns_[c].title);
    for (const auto& row : rows_) widest = std::max(widest, display_width(row[c]));
    if (columns_[c].whole && width > 0) widest = std::min(widest, kWholeRoom);
    widths.push_back(widest);
    total += widest + kGap;
  }
  for (size_t i = 0; i < shown.size() && width > 0 && total > width; ++i) {
    if (!columns_[shown[i]].elastic) continue;
    const int give = std::min(total - width, std::max(0, widths[i] - kNarrowest));
    widths[i] -= give;
    total -= give;
  }
  const bool may_grow = !shown.empty() && columns_[shown.back()].whole;
  if (may_grow && total < width) widths.back() += width - total;
  return widths;
}

std::string Table::render(int width) const {
  const std::vector<size_t> shown = shown_columns();
  const std::vector<int> widths = column_widths(shown, width);
  std::string out;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t i = 0; i < shown.size(); ++i) {
      const Column& column = columns_[shown[i]];
      if (i > 0) line += std::string(kGap, ' ');
      if (column.whole) {
        out += with_whole_text(line, cells[shown[i]], width > 0 ? widths[i] : 0);
        return;
      }
      line += padded(shorten_middle(cells[shown[i]], widths[i]), widths[i], column.right);
    }
    line = without_trailing_space(line);
    out += (width > 0 ? shorten_end(line, width) : line) + "\n";
  };
  std::vector<std::string> titles;
  for (const auto& column : columns_) titles.push_back(column.title);
  add_line(titles);
  for (const auto& row : rows_) add_line(row);
  return out;
}

void KeyValues::add(const std::string& key, const std::string& value) {
  if (!value.empty()) lines_.emplace_back(key, printable(value));
}

std::string KeyValues::render(int width) const {
  int widest = 0;
  for (const auto& [key, value] : lines_) widest = std::max(widest, display_width(key));
  std::string out;
  for (const auto& [key, value] : lines_) {
    const std::string head = padded(key + ":", widest + 1 + kGap, false);
    out += with_whole_text(head, value, width > 0 ? std::max(width - display_width(head), 1) : 0);
  }
  return out;
}

}  // namespace emoe::cli
