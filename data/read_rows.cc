#include "data/read_rows.h"

#include <algorithm>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/utf8.h"
#include "data/csv_reader.h"
#include "data/json_object.h"
#include "data/piece_reader.h"
#include "data/row_warnings.h"
#include "data/table_columns.h"

namespace emoe::data {
namespace {

constexpr std::string_view kEndOfText = "<|endoftext|>";

// The state of one pass over a file.
class RowReader {
 public:
  RowReader(const DataFile& file, Diagnostics& diagnostics,
            const std::function<void(SourceRow&&)>& on_row)
      : file_(file.path),
        key_(file.key),
        number_(file.number),
        several_(file.several),
        parsing_{.fields = file.fields},
        format_(file.format),
        diagnostics_(diagnostics),
        on_row_(on_row),
        faults_(file_.filename().string(), key_, diagnostics) {
    for (const std::string& key : format_.keys) keys_.push_back(parsing_.column(key));
  }

  void read_json(PieceReader& pieces) {
    pieces.skip_whitespace();
    return pieces.peek() == '[' ? read_json_array(pieces) : read_json_lines(pieces);
  }

  void read_documents(PieceReader& pieces, bool has_marks) {
    Piece document;
    Piece line;
    while (pieces.read_line(line)) {
      const bool blank = is_blank(line.text) && !line.too_long;
      if (has_marks ? line.text == kEndOfText : blank) {
        add_document(std::exchange(document, Piece{}));
      } else if (document.line != 0) {
        document.append("\n", 1);
        document.append(line.text.data(), line.text.size());
        document.too_long = document.too_long || line.too_long;
      } else if (!blank) {
        document = line;
      }
    }
    add_document(document);
  }

  void read_csv(PieceReader& pieces) {
    CsvRecord header;
    if (!read_csv_record(pieces, header)) return;
    const std::string fault = fault_of_header(header);
    if (!fault.empty()) return fail(header.line, "the header " + fault);
    CsvRecord record;
    while (read_csv_record(pieces, record)) {
      place_ = absl::StrCat("line ", record.line);
      std::optional<SourceRow> row = csv_row(header.fields, record);
      ++rows_;
      if (row && on_row_) on_row_(*std::move(row));
    }
  }

  Status read_parquet(ParquetFile& table) {
    const TableColumns columns = columns_for(format_, parsing_, table.columns());
    const std::string name = file_.filename().string();
    for (const std::string& fault : columns.faults) diagnostics_.add(name, key_, fault);
    if (!columns.faults.empty()) return ok_status();
    for (const ParquetFile::Column& unread : columns.unread) {
      warn_of_unread(unread.name, unread.filled, name);
    }
    EMOE_RETURN_IF_ERROR(table.select(columns.chosen));
    unit_ = RowUnit::record;
    Piece row;
    while (true) {
      row.line = rows_ + 1;
      EMOE_ASSIGN_OR_RETURN(const bool more, table.next(row.text));
      if (!more) return ok_status();
      place_ = absl::StrCat("row ", row.line, " (counted from 1)");
      row.too_long = row.text.size() > Piece::kMostBytes;
      add_json_row(row, false);
    }
  }

  [[nodiscard]] int64_t rows() const { return rows_; }
  // To the diagnostics, once all rows are read: warnings, and how many more have which fault.
  void finish() {
    const std::string name = file_.filename().string();
    warnings_.report(several_ ? absl::StrCat(key_, " (", name, ")") : key_, rows(), diagnostics_);
    faults_.finish();
  }

 private:
  void read_json_lines(PieceReader& pieces) {
    Piece line;
    while (pieces.read_line(line)) {
      if (is_blank(line.text) && !line.too_long) continue;
      unit_ = RowUnit::line;
      place_ = absl::StrCat("line ", line.line);
      const bool last = pieces.peek() < 0;
      // What a first row shows is the whole file's way, and would be said of every line.
      const std::string way = rows_ == 0 ? way_of(line.text, last) : "";
      if (!way.empty()) return fail(line.line, way);
      add_json_row(line, last);
    }
  }

  void read_json_array(PieceReader& pieces) {
    pieces.skip();
    pieces.skip_whitespace();
    Piece piece;
    bool more = pieces.peek() != ']';
    while (more) {
      pieces.skip_whitespace();
      if (rows_ > 0 && pieces.peek() == ']') {
        fail(pieces.line(), "has a comma behind its last row, before the ']': take it out");
        break;
      }
      unit_ = RowUnit::row;
      place_ = absl::StrCat("row ", rows_ + 1, " (counted from 1)");
      if (!pieces.read_element(piece)) {
        return fail_row(piece, "is not closed: the file ends inside the array");
      }
      add_json_row(piece, false);
      more = pieces.peek() == ',';  // else it is the ']'
      if (more) pieces.skip();
    }
    pieces.skip();
    pieces.skip_whitespace();
    if (pieces.peek() >= 0) fail(pieces.line(), "has text behind the end of the array");
  }

  // The row of a piece; nothing and a violation if it is none. `last`: the file ends behind it.
  std::optional<SourceRow> json_row(const Piece& piece, bool last) {
    if (!is_text(piece)) return std::nullopt;
    if (is_blank(piece.text)) return fail_row(piece, "is empty"), std::nullopt;
    ParsedObject parsed;
    try {
      parsed = parse_object(piece.text, format_.json_depth);
    } catch (const nlohmann::json::exception& error) {
      fail_row(piece, last && is_cut_off(error)
                          ? "is cut off: the file ends inside it"
                          : "is not valid JSON: " + json_fault(error, piece.text));
      return std::nullopt;
    }
    const nlohmann::json& object = parsed.object;
    if (!object.is_object()) {
      fail_row(piece, absl::StrCat("is a JSON ", object.type_name(), ", not an object"));
      return std::nullopt;
    }
    if (parsed.too_deep) return fail_row(piece, "is nested too deeply"), std::nullopt;
    if (parsed.keys.found()) {
      fail_row(piece,
               absl::StrCat("has the key \"", parsed.keys.first(), "\" twice in one object"));
      return std::nullopt;
    }
    return take_object(object, std::move(parsed.filled), piece.line, piece.text);
  }

  // The row of an object whose keys `filled` have something in them.
  std::optional<SourceRow> take_object(const nlohmann::json& object,
                                       std::vector<std::string> filled, int64_t line,
                                       std::string_view text = {}) {
    SourceRow row{.index = rows_, .line = line, .unit = unit_, .file = number_};
    parsing_.text = text;
    parsing_.fault = [&](const std::string& reason) { fail_row(line, reason); };
    parsing_.unread = [&](const std::string& key) {
      if (std::find(filled.begin(), filled.end(), key) == filled.end()) filled.push_back(key);
    };
    if (!format_.parse(object, parsing_, row)) return std::nullopt;
    warn_of_unread_keys(filled, row);
    return row;
  }

  static std::string fault_of_header(const CsvRecord& header) {
    if (!header.fault.empty()) return header.fault;
    std::set<std::string> names;
    for (const std::string& name : header.fields) {
      if (!is_utf8(name)) return "is not UTF-8";
      if (!names.insert(name).second) return absl::StrCat("has the column \"", name, "\" twice");
    }
    const std::string& first = header.fields.front();
    for (const auto& [mark, what] : {std::pair(';', "semicolons"), std::pair('\t', "tabs")}) {
      if (header.fields.size() > 1 || first.find(mark) == std::string::npos) continue;
      return absl::StrCat("is separated by ", what, "; fields of a .csv are separated by commas");
    }
    return "";
  }

  std::optional<SourceRow> csv_row(const std::vector<std::string>& names, CsvRecord& record) {
    const auto bad = [&](const std::string& reason) {
      fail_row(record.line, reason);
      return std::nullopt;
    };
    if (!record.fault.empty()) return bad(record.fault);
    if (record.fields.size() != names.size()) {
      return bad(absl::StrCat("has ", record.fields.size(), " field",
                              record.fields.size() == 1 ? "" : "s", ", the header has ",
                              names.size()));
    }
    nlohmann::json object = nlohmann::json::object();
    std::vector<std::string> filled;
    for (size_t i = 0; i < names.size(); ++i) {
      std::string& field = record.fields[i];
      if (!is_utf8(field)) return bad("is not UTF-8");
      if (field.find('\0') != std::string::npos) return bad("contains a NUL byte");
      if (!field.empty()) filled.push_back(names[i]);
      object[names[i]] = std::move(field);
    }
    return take_object(object, std::move(filled), record.line);
  }

  void warn_of_unread_keys(const std::vector<std::string>& filled, const SourceRow& row) {
    for (const std::string& key : filled) {
      if (std::ranges::find(keys_, key) == keys_.end())
        warn_of_unread(key, 1, place_of(file_, row));
    }
  }
  void warn_of_unread(const std::string& key, int64_t rows, const std::string& first) {
    const std::string name = absl::StrCat("\"", shorten_utf8(key, 40), "\"");
    const auto like = std::ranges::find_if(
        keys_, [&](const std::string& read) { return absl::EqualsIgnoreCase(read, key); });
    warnings_.add(
        warning::kUnreadKey, name,
        absl::StrCat("with a key ", name, ", which data.format ", format_.name, " does not read",
                     like == keys_.end() ? "" : absl::StrCat(" (it reads \"", *like, "\")")),
        first, rows);
  }

  void add_json_row(const Piece& piece, bool last) {
    std::optional<SourceRow> row = json_row(piece, last);
    ++rows_;
    if (row && on_row_) on_row_(*std::move(row));
  }

  void add_document(const Piece& piece) {
    if (is_blank(piece.text)) return;
    unit_ = RowUnit::document;
    place_ = absl::StrCat("document ", rows_ + 1, " (counted from 1)");
    if (is_text(piece) && on_row_) {
      on_row_({.index = rows_,
               .line = piece.line,
               .unit = unit_,
               .file = number_,
               .text = piece.text.substr(0, piece.text.find_last_not_of('\n') + 1)});
    }
    ++rows_;
  }

  // True for a piece that may be looked into; else a violation.
  bool is_text(const Piece& piece) {
    if (piece.too_long) {
      fail_row(piece, absl::StrCat("is longer than ", Piece::kMostBytes >> 20, " MiB"));
    } else if (!is_utf8(piece.text)) {
      fail_row(piece, "is not UTF-8");
    } else if (piece.text.find('\0') != std::string::npos) {  // the JSON parser would end there
      fail_row(piece, "contains a NUL byte");
    } else {
      return true;
    }
    return false;
  }

  void fail(int64_t line, const std::string& reason) {
    diagnostics_.add(absl::StrCat(file_.filename().string(), ":", line), key_, reason);
  }
  void fail_row(int64_t line, const std::string& reason) { faults_.add(line, place_, reason); }
  void fail_row(const Piece& piece, const std::string& reason) { fail_row(piece.line, reason); }

  std::filesystem::path file_;
  std::string key_;
  int64_t number_;
  bool several_;
  RowParsing parsing_;
  std::vector<std::string> keys_;  // the columns that the format reads
  const RowFormat& format_;
  Diagnostics& diagnostics_;
  const std::function<void(SourceRow&&)>& on_row_;
  RowWarnings warnings_;
  RowFaults faults_;
  int64_t rows_ = 0;  // so far
  RowUnit unit_ = RowUnit::line;
  std::string place_;  // of the row at hand, as people count
};

bool has_end_marks(PieceReader& pieces) {
  Piece line;
  while (pieces.read_line(line)) {
    if (line.text == kEndOfText) return true;
  }
  return false;
}

// What is wrong with a file of this ending, .gz and .zst apart; empty: nothing.
std::string fault_of_name(const DataFile& file, const std::string& ending) {
  const std::vector<std::string>& endings = file.format.endings;
  if (std::find(endings.begin(), endings.end(), ending) == endings.end()) {
    return absl::StrCat("ends in '", ending, "', format ", file.format.name, " needs ",
                        absl::StrJoin(endings, " or "));
  }
  if (ending == ".parquet" && ending != file.path.extension().string()) {
    return "is a packed Parquet file, whose parts are packed by themselves: unpack it first";
  }
  return "";
}

Status read_table(const DataFile& file, RowReader& reader, Diagnostics& diagnostics) {
  auto table = ParquetFile::open(file.path);
  if (absl::IsUnimplemented(table.status())) {
    diagnostics.add(file.path.filename().string(), file.key,
                    absl::StrCat(table.status().message(), "; ", parquet_conversion(file.path)));
    return ok_status();
  }
  EMOE_RETURN_IF_ERROR(table.status());
  return reader.read_parquet(*table);
}

Status read_text(const DataFile& file, const std::string& ending, RowReader& reader,
                 Diagnostics& diagnostics) {
  EMOE_ASSIGN_OR_RETURN(PieceReader pieces, PieceReader::open(file.path));
  if (!pieces.stand_in().empty()) {
    diagnostics.add(file.path.filename().string(), file.key, pieces.stand_in());
    return ok_status();
  }
  if (ending == ".txt") {
    const bool has_marks = has_end_marks(pieces);
    EMOE_RETURN_IF_ERROR(pieces.status());
    EMOE_ASSIGN_OR_RETURN(pieces, PieceReader::open(file.path));
    reader.read_documents(pieces, has_marks);
  } else if (ending == ".csv") {
    reader.read_csv(pieces);
  } else {
    reader.read_json(pieces);
  }
  return pieces.status();
}

}  // namespace

Result<int64_t> read_rows(const DataFile& file, Diagnostics& diagnostics,
                          const std::function<void(SourceRow&&)>& on_row) {
  const std::string name = file.path.filename().string();
  const std::string ending = unpacked_name(file.path).extension().string();
  const std::string fault = fault_of_name(file, ending);
  if (!fault.empty()) {
    diagnostics.add(name, file.key, fault);
    return 0;
  }
  const size_t problems = diagnostics.size();
  RowReader reader(file, diagnostics, on_row);
  EMOE_RETURN_IF_ERROR(ending == ".parquet" ? read_table(file, reader, diagnostics)
                                            : read_text(file, ending, reader, diagnostics));
  reader.finish();
  if (reader.rows() == 0 && diagnostics.size() == problems) {
    diagnostics.add(name, file.key, "has no rows");
  }
  return reader.rows();
}

}  // namespace emoe::data
