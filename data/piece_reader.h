#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "data/byte_source.h"

namespace emoe::data {

// A part of a data file that should be one row.
struct Piece {
  static constexpr size_t kMostBytes = 16 << 20;

  std::string text;
  int64_t line = 0;       // 1-based, where it starts
  bool too_long = false;  // `text` holds the first kMostBytes only

  void append(const char* data, size_t size);
};

// Nothing but white space.
[[nodiscard]] inline bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

// Cuts a data file, unpacked where it is packed, into pieces while reading it, whatever its size. A byte order mark at its front
// is passed over, and every line end, CR LF or CR too, is read as '\n': line ends are the file's, not
// its text's (JSON has none in its strings). When the file cannot be read further, it ends; status()
// then says why.
enum class LineEnds {
  unified,     // every one is '\n'
  as_written,  // CR LF or CR may be part of a text, as in a quoted field of CSV
};

class PieceReader {
 public:
  [[nodiscard]] static Result<PieceReader> open(const std::filesystem::path& path,
                                                LineEnds ends = LineEnds::unified);

  // What the file is instead of text, as stand_in() says it; asked before anything is read.
  [[nodiscard]] std::string stand_in() const { return stand_in_; }
  // The next byte, or -1 at the end.
  [[nodiscard]] int peek();
  void skip();  // the byte that peek() showed
  void skip_whitespace();
  // The line that follows, without its '\n'; false at the end of the file.
  [[nodiscard]] bool read_line(Piece& piece);
  // One element of a JSON array, up to the ',' or ']' behind it; false if the file ends first.
  // Brackets and strings only, the parser sees the rest: a broken element so costs its own row and
  // not the file.
  [[nodiscard]] bool read_element(Piece& piece);

  [[nodiscard]] int64_t line() const { return line_; }  // of the next byte, 1-based
  [[nodiscard]] const Status& status() const { return status_; }

 private:
  PieceReader(std::unique_ptr<ByteSource> source, LineEnds ends)
      : source_(std::move(source)), ends_(ends) {}
  bool fill();
  bool read_buffer();
  // Puts '\n' for each line end in the buffer.
  void unify_line_ends();

  std::unique_ptr<ByteSource> source_;
  LineEnds ends_;
  std::string stand_in_;
  bool ended_in_cr_ = false;  // of the buffer before
  std::vector<char> buffer_ = std::vector<char>(256 << 10);
  size_t at_ = 0;
  size_t end_ = 0;
  int64_t line_ = 1;
  Status status_;
};

}  // namespace emoe::data
