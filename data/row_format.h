#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace emoe::data {

// One contribution to a conversation.
struct Message {
  // system | user | input (what the user's request is about) | assistant | tool | tools (the functions
  // that may be called, a JSON list; the first message)
  std::string role;
  std::string content;
  bool learned = true;  // of the assistant: the model learns to write it
  // Of the assistant: a JSON list of {"function": {"name", "arguments", …}, "id"}, in the order of the
  // file, the id where there is one; empty: none.
  std::string tool_calls;
  std::string call_id;  // of a tool: the call that it answers; empty: not said
};

// What people count in a kind of file: lines of JSON, rows of an array, documents of a text, rows of a
// table without lines (whose `line` is the row, counted from 1).
enum class RowUnit : int64_t { line, row, document, record };

// One row of a data file as the user wrote it, its structure checked. Its format decides which of
// `messages` and `text` it has.
struct SourceRow {
  int64_t index = 0;  // 0-based position among the file's rows, bad ones counted
  int64_t line = 0;   // 1-based line of the file where it starts
  RowUnit unit = RowUnit::line;
  int64_t file = 0;  // 0-based, of the files of its data set
  std::vector<Message> messages;
  std::string text;
};

// The place of a row of `file`: "train.jsonl:5", "train.json:5 (row 3, counted from 1)".
[[nodiscard]] std::string place_text(const std::filesystem::path& file, RowUnit unit, int64_t index,
                                     int64_t line);
[[nodiscard]] std::string place_of(const std::filesystem::path& file, const SourceRow& row);
// As people count it in its file: "line 5", "row 3 (counted from 1)".
[[nodiscard]] std::string row_name(const SourceRow& row);

// data.fields: the columns that have other names in a file than in its format, by the latter.
using FieldNames = std::map<std::string, std::string>;

// How a row is parsed, and where to say what of it.
struct RowParsing {
  std::function<void(const std::string& reason)> fault;  // "has an empty \"output\""
  FieldNames fields;
  // A key inside a message that has something in it and is not read.
  std::function<void(const std::string& key)> unread = [](const std::string&) {};

  // The row's JSON, for what the order of keys matters to; empty: as parsed.
  std::string_view text;

  [[nodiscard]] std::string column(const std::string& field) const {
    const auto found = fields.find(field);
    return found == fields.end() ? field : found->second;
  }
};

// A row that is nested deeper is refused.
inline constexpr int kMostJsonDepth = 64;

// A value of data.format. To add one, add its entry to row_formats(): the coordinator's check and
// the worker's dataset both read rows through this table.
struct RowFormat {
  std::string name;
  std::vector<std::string>
      endings;  // of its files; read_rows.h says how each kind is cut into rows
  // The chat template of its rows where data.template is auto ("auto": that of the model's folder).
  // Empty: the rows are texts, of which a long one makes several rows to train on.
  std::string chat_template;
  std::vector<std::string> keys;    // of an object that parse() reads
  std::vector<std::string> fields;  // that data.fields may name
  // Every row has one key of each of these.
  std::vector<std::vector<std::string>> needs;
  int json_depth = 1;  // values nested deeper are parsed and dropped before parse() sees the row
  // Takes what the format needs out of a JSON object; false, and every fault reported, if it is no
  // good row. Not called for documents of a .txt file.
  bool (*parse)(const nlohmann::json& object, const RowParsing& parsing, SourceRow& row) = nullptr;

  [[nodiscard]] bool has_messages() const { return !chat_template.empty(); }
};

[[nodiscard]] const std::vector<RowFormat>& row_formats();
// Null: there is no such format.
[[nodiscard]] const RowFormat* find_row_format(const std::string& name);

// A row whose answers are all empty: nothing to learn but where the text ends.
[[nodiscard]] bool has_empty_answers(const std::vector<Message>& messages);

}  // namespace emoe::data
