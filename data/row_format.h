#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json_fwd.hpp>

namespace emoe::data {

// One contribution to a conversation.
struct Message {
  std::string role;  // user | input (what the user's request is about) | assistant
  std::string content;
};

// What people count in a kind of file: lines of JSON, rows of an array, documents of a text.
enum class RowUnit : int64_t { line, row, document };

// One row of a data file as the user wrote it, its structure checked. Its format decides which of
// `messages` and `text` it has.
struct SourceRow {
  int64_t index = 0;  // 0-based position among the file's rows, bad ones counted
  int64_t line = 0;   // 1-based line of the file where it starts
  RowUnit unit = RowUnit::line;
  std::vector<Message> messages;
  std::string text;
};

// The place of a row of `file`: "train.jsonl:5", "train.json:5 (row 3, counted from 1)".
[[nodiscard]] std::string place_text(const std::filesystem::path& file, RowUnit unit, int64_t index,
                                     int64_t line);
[[nodiscard]] std::string place_of(const std::filesystem::path& file, const SourceRow& row);

// Called with what is wrong with a row: "has an empty \"output\"".
using ReportFault = std::function<void(const std::string& reason)>;

// A value of data.format. To add one, add its entry to row_formats(): the coordinator's check and
// the worker's dataset both read rows through this table.
struct RowFormat {
  std::string name;
  std::vector<std::string>
      endings;  // of its files; read_rows.h says how each kind is cut into rows
  // The chat template that turns a row's messages into text (worker/text/chat_template.h). Empty:
  // the rows are texts, of which a long one makes several rows to train on.
  std::string chat_template;
  std::vector<std::string> keys;  // of an object that parse() reads
  int json_depth = 1;  // values nested deeper are parsed and dropped before parse() sees the row
  // Takes what the format needs out of a JSON object; false, and every fault reported, if it is no
  // good row. Not called for documents of a .txt file.
  bool (*parse)(const nlohmann::json& object, const ReportFault& fault, SourceRow& row) = nullptr;

  [[nodiscard]] bool has_messages() const { return !chat_template.empty(); }
};

[[nodiscard]] const std::vector<RowFormat>& row_formats();
// Null: there is no such format.
[[nodiscard]] const RowFormat* find_row_format(const std::string& name);

}  // namespace emoe::data
