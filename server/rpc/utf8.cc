#include "server/rpc/utf8.h"

#include <algorithm>

#include "config/data_check.h"

namespace emoe::server {

std::string to_valid_utf8(const std::string& text) {
  if (config::is_utf8(text)) return text;
  std::string clean;
  clean.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto lead = static_cast<unsigned char>(text[i]);
    const size_t length = lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    const std::string_view piece(text.data() + i, std::min(length, text.size() - i));
    if (config::is_utf8(piece)) {
      clean += piece;
      i += piece.size();
    } else {
      clean += "\xef\xbf\xbd";
      ++i;
    }
  }
  return clean;
}

std::string shorten_utf8(const std::string& text, size_t bytes) {
  if (text.size() <= bytes) return text;
  size_t end = bytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;
  return text.substr(0, end) + "…";
}

}  // namespace emoe::server
