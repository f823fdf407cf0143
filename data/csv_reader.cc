#include "data/csv_reader.h"

#include <absl/strings/str_cat.h>

namespace emoe::data {
namespace {

// '\r' where line ends are as written.
bool ends_line(int c) {
  return c == '\n' || c == '\r';
}

class CsvParser {
 public:
  CsvParser(PieceReader& pieces, CsvRecord& record) : pieces_(pieces), record_(record) {}

  void read() {
    do {
      record_.fields.emplace_back();
      const bool quoted = pieces_.peek() == '"';
      if (quoted ? !read_quoted() : !read_bare()) return skip_line();
    } while (next_field());
    if (bytes_ > Piece::kMostBytes) {
      record_.fault = absl::StrCat("is longer than ", Piece::kMostBytes >> 20, " MiB");
    }
  }

 private:
  bool fail(const std::string& fault) {
    record_.fault = fault;
    return false;
  }
  [[nodiscard]] std::string field_name() const {
    return absl::StrCat("in its field ", record_.fields.size());
  }

  void take() {
    const int c = pieces_.peek();
    if (++bytes_ <= Piece::kMostBytes) record_.fields.back() += static_cast<char>(c);
    pieces_.skip();
  }

  bool read_bare() {
    for (int c = pieces_.peek(); c >= 0 && c != ',' && !ends_line(c); c = pieces_.peek()) {
      take();
    }
    return true;
  }

  bool read_quoted() {
    const int64_t line = pieces_.line();
    pieces_.skip();
    for (int c = pieces_.peek(); c >= 0; c = pieces_.peek()) {
      if (c == '"') {
        pieces_.skip();
        if (pieces_.peek() != '"') return after_quote();
      }
      take();
    }
    return fail(absl::StrCat("opens a quote ", field_name(), " (line ", line,
                             ") that is never closed: the file ends inside it"));
  }

  bool after_quote() {
    const int c = pieces_.peek();
    if (c < 0 || c == ',' || ends_line(c)) return true;
    return fail(absl::StrCat("has text behind the closing quote ", field_name(),
                             ": double the quotes inside a field"));
  }

  // Over the comma; false at the end of the record.
  bool next_field() {
    const int c = pieces_.peek();
    if (c >= 0) pieces_.skip();
    if (c == '\r' && pieces_.peek() == '\n') pieces_.skip();
    return c == ',';
  }

  void skip_line() {
    for (int c = pieces_.peek(); c >= 0; c = pieces_.peek()) {
      pieces_.skip();
      if (c == '\n' || (c == '\r' && pieces_.peek() != '\n')) return;
    }
  }

  PieceReader& pieces_;
  CsvRecord& record_;
  size_t bytes_ = 0;
};

}  // namespace

bool read_csv_record(PieceReader& pieces, CsvRecord& record) {
  while (ends_line(pieces.peek())) pieces.skip();
  record = {.line = pieces.line()};
  if (pieces.peek() < 0) return false;
  CsvParser(pieces, record).read();
  return true;
}

}  // namespace emoe::data
