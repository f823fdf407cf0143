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

// All others.
constexpr char kNoSpaces[] =
    R"(\x{00}-\x{08}\x{0e}-\x{1f}\x{21}-\x{84}\x{86}-\x{9f}\x{a1}-\x{167f}\x{1681}-\x{1fff}\x{200b}-\x{2027})"
    R"(\x{202a}-\x{202e}\x{2030}-\x{205e}\x{2060}-\x{2fff}\x{3001}-\x{10ffff})";

// The same for one character.
bool is_white_space(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
}

// Expressions of tokenizers are written for Oniguruma. This spells out for PCRE2 what it reads otherwise
// (\s and \S, scripts, {,n}) and refuses what would take more: a text that is read otherwise than by the
// tokenizer's own library would be learned wrong without a word.
class Translator {
 public:
  explicit Translator(std::string_view expression) : rest_(expression) {}

  Result<std::string> translate() {
    while (!rest_.empty()) EMOE_RETURN_IF_ERROR(step());
    return std::move(result_);
  }

 private:
  static Status refused(std::string_view what) {
    return absl::InvalidArgumentError(absl::StrCat(std::string(what), " is not supported"));
  }
  void take(size_t bytes) {
    result_ += rest_.substr(0, bytes);
    rest_.remove_prefix(std::min(bytes, rest_.size()));
  }
  void replace(size_t bytes, std::string_view text) {
    result_ += text;
    rest_.remove_prefix(bytes);
  }

  Status step() {
    if (rest_.front() == '\\') return escape();
    if (in_class_ && (rest_.front() == '[' || rest_.starts_with("&&"))) {
      return refused("a class in a class");
    }
    if (!in_class_ && rest_.starts_with("(?")) EMOE_RETURN_IF_ERROR(check_flags());
    if (!in_class_ && rest_.starts_with("{,")) {
      replace(2, "{0,");
      return ok_status();
    }
    if (!in_class_ && rest_.starts_with("}+")) return refused("+ behind a number of times");
    if (rest_.front() == '[') in_class_ = true;
    if (rest_.front() == ']') in_class_ = false;
    take(1);
    return ok_status();
  }

  // (?i) means the same to both, (?m) does not.
  [[nodiscard]] Status check_flags() const {
    const size_t end = rest_.find_first_not_of("abcdefghijklmnopqrstuvwxyz-", 2);
    if (end == std::string_view::npos || (rest_[end] != ':' && rest_[end] != ')')) {
      return ok_status();
    }
    const std::string_view flags = rest_.substr(2, end - 2);
    return flags.find_first_not_of("i-") == std::string_view::npos
               ? ok_status()
               : refused(absl::StrCat("(?", std::string(flags), ")"));
  }

  Status escape() {
    const char next = rest_.size() > 1 ? rest_[1] : '\0';
    if (std::string_view("wWbBhHvVRXKGQEN").find(next) != std::string_view::npos && next != '\0') {
      return refused(rest_.substr(0, 2));
    }
    if (next == 's' || next == 'S') {
      const char* set = next == 's' ? kSpaces : kNoSpaces;
      replace(2, in_class_ ? set : absl::StrCat("[", set, "]"));
    } else if ((next == 'p' || next == 'P') && rest_.substr(2).starts_with('{')) {
      property();
    } else {
      take(2);
    }
    return ok_status();
  }

  // A script is that of the character itself; PCRE2 takes those that use it, too.
  void property() {
    const size_t end = std::min(rest_.find('}'), rest_.size());
    size_t begin = 3;
    if (begin < end && rest_[begin] == '^') ++begin;
    constexpr size_t kCategory = 2;  // the letters of a general category, at most
    take(begin);
    if (end > begin + kCategory) result_ += "sc:";
    take(end - begin + 1);
  }

  std::string_view rest_;
  std::string result_;
  bool in_class_ = false;
};

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
  const Result<std::string> spelt = Translator(expression).translate();
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
