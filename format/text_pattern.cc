#define PCRE2_CODE_UNIT_WIDTH 8
#include "format/text_pattern.h"

#include <algorithm>
#include <array>

#include <absl/strings/str_cat.h>
#include <pcre2.h>

#include "base/check.h"
#include "base/utf8.h"

namespace emoe {
namespace {

// White_Space of Unicode, for a class. PCRE2's own \s has U+180E besides.
constexpr char kSpaces[] =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";

// The same for one character.
bool is_white_space(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

// The expression with \s, and \S outside of classes, spelt out. A class in a class, and `&&`, mean
// other things to PCRE2.
Result<std::string> with_spaces(std::string_view expression) {
  std::string result;
  bool in_class = false;
  for (size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    const char next = i + 1 < expression.size() ? expression[i + 1] : '\0';
    if (c == '\\') {
      ++i;
      if (next == 's') {
        absl::StrAppend(&result, in_class ? "" : "[", kSpaces, in_class ? "" : "]");
      } else if (next == 'S' && !in_class) {
        absl::StrAppend(&result, "[^", kSpaces, "]");
      } else {
        result += c;
        if (next != '\0') result += next;
      }
      continue;
    }
    if (in_class && ((c == '[' && next != ':') || (c == '&' && next == '&'))) {
      return absl::InvalidArgumentError("a class in a class is not supported");
    }
    if (in_class && c == '[') {  // [:name:]
      const size_t end = expression.find(":]", i);
      if (end == std::string_view::npos) {
        return absl::InvalidArgumentError("a class without an end");
      }
      result += expression.substr(i, end + 2 - i);
      i = end + 1;
      continue;
    }
    if (c == '[') in_class = true;
    if (c == ']') in_class = false;
    result += c;
  }
  return result;
}

std::string reason_of(int error) {
  std::array<PCRE2_UCHAR, 256> text{};
  pcre2_get_error_message(error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

using MatchData = std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)>;

}  // namespace

Result<TextPattern> TextPattern::regex(const std::string& expression) {
  const auto refused = [&](const std::string& reason) {
    return absl::InvalidArgumentError(
        absl::StrCat("the regular expression ", expression, " cannot be used: ", reason));
  };
  const Result<std::string> spelt = with_spaces(expression);
  if (!spelt.ok()) return refused(std::string(spelt.status().message()));
  int error = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* code = pcre2_compile(
      reinterpret_cast<PCRE2_SPTR>(spelt->data()), spelt->size(),
      PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C, &error, &offset, nullptr);
  if (code == nullptr) return refused(reason_of(error));
  pcre2_jit_compile(code, PCRE2_JIT_COMPLETE);  // where the processor has none, it is interpreted
  TextPattern pattern;
  pattern.code_ = std::shared_ptr<const void>(
      code, [](const void* p) { pcre2_code_free(static_cast<pcre2_code*>(const_cast<void*>(p))); });
  return pattern;
}

TextPattern TextPattern::literal(std::string text) {
  EMOE_CHECK(!text.empty());
  TextPattern pattern;
  pattern.literal_ = std::move(text);
  return pattern;
}

void TextPattern::for_matches(std::string_view text, const Visit& visit) const {
  if (code_ == nullptr) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      visit(at, at + literal_.size());
    }
    return;
  }
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const MatchData data(pcre2_match_data_create_from_pattern(code, nullptr), pcre2_match_data_free);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  for (size_t at = 0; at <= text.size();) {
    int found =
        pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK, data.get(), nullptr);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) {
      found = pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT,
                          data.get(), nullptr);
    }
    if (found == PCRE2_ERROR_NOMATCH) return;
    EMOE_CHECK(found > 0, reason_of(found));
    const PCRE2_SIZE* where = pcre2_get_ovector_pointer(data.get());
    visit(where[0], where[1]);
    at = where[1];
    if (where[1] == where[0]) {  // the next one begins a character later
      at += std::max<size_t>(1, first_character(text.substr(at)).bytes);
    }
  }
}

size_t leading_space(std::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    const Utf8Character character = first_character(text.substr(at));
    if (character.bytes == 0 || !is_white_space(character.code)) break;
    at += character.bytes;
  }
  return at;
}

size_t without_trailing_space(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && (static_cast<unsigned char>(text[begin]) & 0xC0) == 0x80) --begin;
    if (!is_white_space(first_character(text.substr(begin, end - begin)).code)) break;
    end = begin;
  }
  return end;
}

}  // namespace emoe
