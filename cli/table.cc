#include "cli/table.h"

#include <algorithm>

#include "base/check.h"
#include "cli/format.h"

namespace emoe::cli {
namespace {

constexpr int kGap = 2;
constexpr int kNarrowest = 6;  // an elastic column keeps so much

std::string padded(const std::string& text, int width, bool right) {
  const int missing = std::max(0, width - display_width(text));
  const std::string space(static_cast<size_t>(missing), ' ');
  return right ? space + text : text + space;
}

std::string without_trailing_space(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

}  // namespace

void Table::add(std::vector<std::string> row) {
  EMOE_CHECK(row.size() == columns_.size());
  for (auto& cell : row) cell = printable(cell);
  rows_.push_back(std::move(row));
}

std::vector<int> Table::column_widths(int width) const {
  std::vector<int> widths;
  int total = -kGap;
  for (size_t c = 0; c < columns_.size(); ++c) {
    int widest = display_width(columns_[c].title);
    for (const auto& row : rows_) widest = std::max(widest, display_width(row[c]));
    widths.push_back(widest);
    total += widest + kGap;
  }
  for (size_t c = 0; c < columns_.size() && width > 0 && total > width; ++c) {
    if (!columns_[c].elastic) continue;
    const int give = std::min(total - width, std::max(0, widths[c] - kNarrowest));
    widths[c] -= give;
    total -= give;
  }
  return widths;
}

std::string Table::render(int width) const {
  const std::vector<int> widths = column_widths(width);
  std::vector<std::string> titles;
  for (const auto& column : columns_) titles.push_back(column.title);
  std::string out;
  const auto add_line = [&](const std::vector<std::string>& cells) {
    std::string line;
    for (size_t c = 0; c < cells.size(); ++c) {
      if (c > 0) line += std::string(kGap, ' ');
      line += padded(shorten_middle(cells[c], widths[c]), widths[c], columns_[c].right);
    }
    line = without_trailing_space(line);
    out += (width > 0 ? shorten_end(line, width) : line) + "\n";
  };
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
    const int room = width - display_width(head);
    out += head + (width > 0 ? shorten_middle(value, std::max(room, 1)) : value) + "\n";
  }
  return out;
}

}  // namespace emoe::cli
