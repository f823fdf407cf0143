#include "data/piece_reader.h"

#include <algorithm>
#include <cstring>

#include "base/input_file.h"

namespace emoe::data {

void Piece::append(const char* data, size_t size) {
  const size_t room = kMostBytes - text.size();
  too_long = too_long || size > room;
  text.append(data, std::min(size, room));
}

Result<PieceReader> PieceReader::open(const std::filesystem::path& path, LineEnds ends) {
  EMOE_ASSIGN_OR_RETURN(std::unique_ptr<ByteSource> source, ByteSource::open(path));
  PieceReader reader(std::move(source), ends);
  const bool any = reader.read_buffer();
  EMOE_RETURN_IF_ERROR(reader.status_);
  const std::string_view front(reader.buffer_.data(), std::min(reader.end_, kFrontBytes));
  reader.stand_in_ = emoe::stand_in(front, InputKind::text);
  if (any && ends == LineEnds::unified) reader.unify_line_ends();
  constexpr char kMark[] = "\xEF\xBB\xBF";  // some editors write it
  if (reader.end_ >= 3 && std::memcmp(reader.buffer_.data(), kMark, 3) == 0) reader.at_ = 3;
  return reader;
}

// Fills the buffer as far as the file goes; false where there is nothing more.
bool PieceReader::read_buffer() {
  at_ = 0;
  end_ = 0;
  while (end_ < kFrontBytes) {
    const Result<size_t> got = source_->read(buffer_.data() + end_, buffer_.size() - end_);
    if (!got.ok()) status_ = got.status();
    if (!got.ok() || *got == 0) break;
    end_ += *got;
  }
  return end_ > 0;
}

bool PieceReader::fill() {
  if (!status_.ok() || !read_buffer()) return false;
  if (ends_ == LineEnds::unified) unify_line_ends();
  return end_ > 0 || fill();  // it may have been the '\n' of a CR alone
}

void PieceReader::unify_line_ends() {
  char* const begin = buffer_.data();
  char* const end = begin + end_;
  const bool ends_in_cr = end[-1] == '\r';
  char* from = begin + (ended_in_cr_ && *begin == '\n' ? 1 : 0);
  ended_in_cr_ = ends_in_cr;
  char* to = begin;
  while (from < end) {
    auto* cr = static_cast<char*>(std::memchr(from, '\r', static_cast<size_t>(end - from)));
    if (cr == nullptr) cr = end;
    std::memmove(to, from, static_cast<size_t>(cr - from));
    to += cr - from;
    from = cr;
    if (from == end) break;
    *to++ = '\n';
    from += from + 1 < end && from[1] == '\n' ? 2 : 1;
  }
  end_ = static_cast<size_t>(to - begin);
}

int PieceReader::peek() {
  if (at_ == end_ && !fill()) return -1;
  return static_cast<unsigned char>(buffer_[at_]);
}

void PieceReader::skip() {
  if (buffer_[at_++] == '\n') ++line_;
}

void PieceReader::skip_whitespace() {
  for (int c = peek(); c == ' ' || c == '\t' || c == '\r' || c == '\n'; c = peek()) skip();
}

bool PieceReader::read_line(Piece& piece) {
  piece.text.clear();
  piece.too_long = false;
  piece.line = line_;
  if (peek() < 0) return false;
  do {
    const char* begin = buffer_.data() + at_;
    const auto* end = static_cast<const char*>(std::memchr(begin, '\n', end_ - at_));
    const size_t size = end == nullptr ? end_ - at_ : static_cast<size_t>(end - begin);
    piece.append(begin, size);
    at_ += size;
    if (end != nullptr) {
      skip();
      return true;
    }
  } while (peek() >= 0);
  return true;
}

namespace {

// The brackets that are open at a place of a JSON text.
class OpenBrackets {
 public:
  [[nodiscard]] bool none() const { return open_.empty(); }
  void open(char bracket) {
    if (open_.size() == Piece::kMostBytes) return;  // no row is as deep
    open_ += bracket;
    ++count(bracket);
  }
  // Closes the last one that it fits, and what was left open inside; nothing if it fits none.
  void close(char bracket) {
    const char opening = bracket == '}' ? '{' : '[';
    if (count(opening) == 0) return;
    char last = 0;
    do {
      last = open_.back();
      open_.pop_back();
      --count(last);
    } while (last != opening);
  }

 private:
  size_t& count(char opening) { return opening == '{' ? braces_ : squares_; }
  std::string open_;
  size_t braces_ = 0;
  size_t squares_ = 0;
};

}  // namespace

bool PieceReader::read_element(Piece& piece) {
  piece = {.line = line_};
  OpenBrackets brackets;
  bool in_string = false;
  bool escaped = false;
  for (int c = peek(); c >= 0; c = peek()) {
    if (in_string) {
      in_string = escaped || c != '"';
      escaped = !escaped && c == '\\';
    } else if (brackets.none() && (c == ',' || c == ']')) {
      return true;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      brackets.open(static_cast<char>(c));
    } else if (c == '}' || c == ']') {
      brackets.close(static_cast<char>(c));
    }
    piece.append(&buffer_[at_], 1);
    skip();
  }
  return false;
}

}  // namespace emoe::data
