#pragma once

#include <string>
#include <vector>

namespace emoe::cli {

// Text in columns, two spaces apart, made to fit the terminal.
class Table {
 public:
  struct Column {
    std::string title;
    bool right = false;     // aligned to the right
    bool elastic = false;   // shortened first (in its middle) when the terminal is narrow
    bool whole = false;     // only the last: wrapped, never cut; a path may be too wide
    bool optional = false;  // left out while every cell is "-"
  };
  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}

  // One cell per column.
  void add(std::vector<std::string> row);
  // A line per row under a line of titles; `width` 0: unlimited (not a terminal).
  [[nodiscard]] std::string render(int width) const;

 private:
  [[nodiscard]] std::vector<size_t> shown_columns() const;
  [[nodiscard]] std::vector<int> column_widths(const std::vector<size_t>& shown, int width) const;
  std::vector<Column> columns_;
  std::vector<std::vector<std::string>> rows_;
};

// "key:  value" lines with the values in one column. A value is never cut but wrapped.
class KeyValues {
 public:
  void add(const std::string& key, const std::string& value);  // nothing for an empty value
  [[nodiscard]] std::string render(int width) const;

 private:
  std::vector<std::pair<std::string, std::string>> lines_;
};

}  // namespace emoe::cli
