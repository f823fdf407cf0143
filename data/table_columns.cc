#include "data/table_columns.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/utf8.h"
#include "data/json_values.h"

namespace emoe::data {
namespace {

bool contains(const std::vector<std::string>& names, const std::string& name) {
  return std::ranges::find(names, name) != names.end();
}

// What a column should be where it is something else; empty: it is good.
std::string wanted_of(const RowFormat& format, const RowParsing& parsing,
                      const ParquetFile::Column& column) {
  const bool has_lists = format.json_depth > 1;
  const bool needed = std::ranges::any_of(format.needs, [&](const auto& choices) {
    return std::ranges::any_of(
        choices, [&](const std::string& key) { return parsing.column(key) == column.name; });
  });
  if (has_lists && column.kind == ParquetApi::kTurns) return "";
  if (has_lists && needed) return "a list of structs";
  return column.kind == ParquetApi::kText ? "" : "strings";
}

}  // namespace

TableColumns columns_for(const RowFormat& format, const RowParsing& parsing,
                         const std::vector<ParquetFile::Column>& columns) {
  TableColumns found;
  std::vector<std::string> keys;
  for (const std::string& key : format.keys) keys.push_back(parsing.column(key));
  std::vector<std::string> names;
  for (const ParquetFile::Column& column : columns) {
    const std::string quoted = absl::StrCat("\"", shorten_utf8(column.name, 40), "\"");
    const bool read = contains(keys, column.name);
    if (read && contains(names, column.name)) {
      found.faults.push_back(absl::StrCat("has the column ", quoted, " twice"));
    }
    names.push_back(column.name);
    if (!read) {
      if (column.filled > 0) found.unread.push_back(column);
      continue;
    }
    if (const std::string wanted = wanted_of(format, parsing, column); !wanted.empty()) {
      found.faults.push_back(absl::StrCat("has ", shorten_utf8(column.type, 200), " in the column ",
                                          quoted, ", of which format ", format.name, " reads ",
                                          wanted));
    }
    found.chosen.push_back(static_cast<int32_t>(names.size() - 1));
  }
  std::vector<std::string> missing;
  for (const std::vector<std::string>& choices : format.needs) {
    const bool there = std::ranges::any_of(
        choices, [&](const std::string& key) { return contains(names, parsing.column(key)); });
    if (!there) missing.push_back(parsing.column(choices.front()));
  }
  if (!missing.empty()) {
    found.faults.push_back(absl::StrCat("lacks the column", missing.size() > 1 ? "s " : " ",
                                        quoted_keys(missing), "; it has ",
                                        names.empty() ? "none" : quoted_keys(names)));
  }
  return found;
}

}  // namespace emoe::data
