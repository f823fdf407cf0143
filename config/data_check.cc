#include "config/data_check.h"

#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe::config {
namespace {

constexpr std::string_view kWhitespace = " \t\r\n";
constexpr std::string_view kEndOfText = "<|endoftext|>";

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

std::string_view without_carriage_return(std::string_view line) {
  if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
  return line;
}

// A piece of the file that should be one row.
struct Piece {
  std::string_view text;
  int64_t line = 0;
};

// What one pass over a file carries along.
class RowReader {
 public:
  RowReader(std::string name, bool alpaca, Diagnostics& diagnostics,
            const std::function<void(DataRow&&)>& on_row)
      : name_(std::move(name)), alpaca_(alpaca), diagnostics_(diagnostics), on_row_(on_row) {}

  void read_json_lines(std::string_view text);
  void read_json_array(std::string_view text);
  void read_documents(std::string_view text);
  [[nodiscard]] int64_t rows() const { return next_index_; }

 private:
  void add_json_row(const Piece& piece);
  void add_document(const Piece& piece);
  // The string at `key`; false and a violation when it is missing or no string. An absent or null
  // optional key is the empty string.
  bool take(const nlohmann::json& object, const char* key, bool optional, const Piece& piece,
            std::string& out);
  void fail(int64_t line, const std::string& field, const std::string& reason) {
    diagnostics_.add(absl::StrCat(name_, ":", line), field, reason);
  }
  void fail_row(const Piece& piece, const std::string& field, const std::string& reason) {
    fail(piece.line, field, absl::StrCat("row ", next_index_, " ", reason));
  }

  std::string name_;
  bool alpaca_;
  Diagnostics& diagnostics_;
  const std::function<void(DataRow&&)>& on_row_;
  int64_t next_index_ = 0;
};

bool RowReader::take(const nlohmann::json& object, const char* key, bool optional,
                     const Piece& piece, std::string& out) {
  const auto found = object.find(key);
  if (found == object.end() || (optional && found->is_null())) {
    if (!optional) fail_row(piece, key, absl::StrCat("lacks the key \"", key, "\""));
    return optional;
  }
  if (!found->is_string()) {
    fail_row(piece, key,
             absl::StrCat("has a ", found->type_name(), " at \"", key, "\", must be a string"));
    return false;
  }
  out = found->get<std::string>();
  return true;
}

// nlohmann's text without its class name and the position inside the row.
std::string json_reason(const nlohmann::json::parse_error& error) {
  const std::string what = error.what();
  const auto column = what.find("column ");
  const auto colon = column == std::string::npos ? column : what.find(": ", column);
  return colon == std::string::npos ? what : what.substr(colon + 2);
}

void RowReader::add_json_row(const Piece& piece) {
  const auto count = [&] { ++next_index_; };
  if (is_blank(piece.text)) return fail_row(piece, "", "is empty"), count();
  if (!is_utf8(piece.text)) return fail_row(piece, "", "is not UTF-8"), count();
  nlohmann::json object;
  try {
    object = nlohmann::json::parse(piece.text.begin(), piece.text.end());
  } catch (const nlohmann::json::parse_error& error) {
    return fail_row(piece, "", absl::StrCat("is not valid JSON: ", json_reason(error))), count();
  }
  if (!object.is_object()) {
    return fail_row(piece, "", absl::StrCat("is a JSON ", object.type_name(), ", not an object")),
           count();
  }
  DataRow row{.index = next_index_, .line = piece.line};
  bool good = true;
  std::string& first = alpaca_ ? row.instruction : row.text;
  const char* first_key = alpaca_ ? "instruction" : "text";
  if (!take(object, first_key, false, piece, first)) {
    good = false;
  } else if (is_blank(first)) {
    fail_row(piece, first_key, absl::StrCat("has an empty \"", first_key, "\""));
    good = false;
  }
  if (alpaca_) {
    good = take(object, "input", true, piece, row.input) && good;
    good = take(object, "output", false, piece, row.output) && good;
  }
  if (good && on_row_) on_row_(std::move(row));
  count();
}

void RowReader::read_json_lines(std::string_view text) {
  int64_t line = 1;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const std::string_view content = text.substr(0, end);
    text.remove_prefix(end == std::string_view::npos ? text.size() : end + 1);
    // Blank lines at the end are how some tools write; one in between is a lost row.
    if (is_blank(content) && is_blank(text)) return;
    add_json_row({content, line++});
  }
}

// Finds where one element of a JSON array ends: brackets and strings only, the parser sees the
// rest. A broken element so costs its own row and not the file.
struct ElementScanner {
  std::string_view text;
  size_t at = 0;
  int64_t line = 1;

  void skip_whitespace() {
    for (; at < text.size() && kWhitespace.find(text[at]) != std::string_view::npos; ++at) {
      if (text[at] == '\n') ++line;
    }
  }

  // Up to the ',' or ']' behind the element, which is not consumed; npos if the text ends first.
  size_t find_end() {
    int64_t depth = 0;
    bool in_string = false;
    for (; at < text.size(); ++at) {
      const char c = text[at];
      if (c == '\n') ++line;
      if (in_string) {
        if (c == '\\') {
          ++at;
        } else if (c == '"') {
          in_string = false;
        }
      } else if (c == '"') {
        in_string = true;
      } else if (depth == 0 && (c == ',' || c == ']')) {
        return at;
      } else if (c == '{' || c == '[') {
        ++depth;
      } else if (c == '}' || c == ']') {
        --depth;
      }
    }
    return std::string_view::npos;
  }
};

void RowReader::read_json_array(std::string_view text) {
  ElementScanner scanner{text};
  scanner.skip_whitespace();
  if (scanner.at == text.size()) return;
  if (text[scanner.at] != '[') {
    return fail(scanner.line, "", "is no JSON array of objects (JSON lines belong in a .jsonl)");
  }
  ++scanner.at;
  scanner.skip_whitespace();
  if (scanner.at < text.size() && text[scanner.at] == ']') {
    ++scanner.at;
  } else {
    while (true) {
      scanner.skip_whitespace();
      Piece piece{{}, scanner.line};
      const size_t begin = scanner.at;
      const size_t end = scanner.find_end();
      if (end == std::string_view::npos) {
        return fail_row(piece, "", "is not closed: the file ends inside the array");
      }
      piece.text = text.substr(begin, end - begin);
      add_json_row(piece);
      ++scanner.at;
      if (text[end] == ']') break;
    }
  }
  scanner.skip_whitespace();
  if (scanner.at < text.size()) fail(scanner.line, "", "has text behind the end of the array");
}

void RowReader::add_document(const Piece& piece) {
  if (is_blank(piece.text)) return;
  const auto last = piece.text.find_last_not_of("\r\n");
  if (!is_utf8(piece.text)) {
    fail_row(piece, "", "(the document that starts here) is not UTF-8");
  } else if (on_row_) {
    on_row_({.index = next_index_,
             .line = piece.line,
             .text = std::string(piece.text.substr(0, last + 1))});
  }
  ++next_index_;
}

void RowReader::read_documents(std::string_view text) {
  std::vector<Piece> lines;
  bool has_marks = false;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    lines.push_back({without_carriage_return(text.substr(at, end - at)), 0});
    lines.back().line = static_cast<int64_t>(lines.size());
    has_marks = has_marks || lines.back().text == kEndOfText;
    at = end + 1;
  }
  Piece document;
  for (const Piece& line : lines) {
    if (has_marks ? line.text == kEndOfText : is_blank(line.text)) {
      add_document(std::exchange(document, Piece{}));
    } else if (document.line != 0) {
      document.text = {document.text.data(),
                       static_cast<size_t>(line.text.end() - document.text.begin())};
    } else if (!is_blank(line.text)) {
      document = line;
    }
  }
  add_document(document);
}

}  // namespace

bool is_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    if (lead < 0x80) {
      ++at;
      continue;
    }
    const size_t length = lead >= 0xC2 && lead <= 0xDF   ? 2
                          : lead >= 0xE0 && lead <= 0xEF ? 3
                          : lead >= 0xF0 && lead <= 0xF4 ? 4
                                                         : 0;
    if (length == 0 || at + length > text.size()) return false;
    uint32_t code = lead & (0xFFu >> (length + 1));
    for (size_t i = 1; i < length; ++i) {
      const auto next = static_cast<unsigned char>(text[at + i]);
      if ((next & 0xC0) != 0x80) return false;
      code = code << 6 | (next & 0x3Fu);
    }
    const bool overlong = (length == 3 && code < 0x800) || (length == 4 && code < 0x10000);
    if (overlong || code > 0x10FFFF || (code >= 0xD800 && code <= 0xDFFF)) return false;
    at += length;
  }
  return true;
}

Status read_data_rows(const std::filesystem::path& file, const std::string& format,
                      Diagnostics& diagnostics, const std::function<void(DataRow&&)>& on_row) {
  const std::string name = file.filename().string();
  const std::string ending = file.extension().string();
  if (format != "alpaca" && format != "text") {
    diagnostics.add(name, "data.format",
                    absl::StrCat("'", format, "' cannot be read yet, use alpaca or text"));
    return ok_status();
  }
  const bool is_text_file = format == "text" && ending == ".txt";
  if (ending != ".json" && ending != ".jsonl" && !is_text_file) {
    diagnostics.add(name, "",
                    absl::StrCat("ends in '", ending, "', format ", format,
                                 " needs .json or .jsonl", format == "text" ? " or .txt" : ""));
    return ok_status();
  }
  EMOE_ASSIGN_OR_RETURN(MappedFile mapping, MappedFile::open(file));
  std::string_view text(reinterpret_cast<const char*>(mapping.bytes().data()),
                        mapping.bytes().size());
  if (text.starts_with("\xEF\xBB\xBF")) text.remove_prefix(3);  // some editors' byte order mark
  const size_t problems = diagnostics.size();
  RowReader reader(name, format == "alpaca", diagnostics, on_row);
  if (is_text_file) {
    reader.read_documents(text);
  } else if (ending == ".json") {
    reader.read_json_array(text);
  } else {
    reader.read_json_lines(text);
  }
  if (reader.rows() == 0 && diagnostics.size() == problems) {
    diagnostics.add(name, "", "has no rows");
  }
  return ok_status();
}

void check_data_file(const std::filesystem::path& file, const std::string& format,
                     const std::string& key, Diagnostics& diagnostics) {
  const Status status = read_data_rows(file, format, diagnostics, nullptr);
  if (!status.ok()) diagnostics.add(key, std::string(status.message()));
}

}  // namespace emoe::config
