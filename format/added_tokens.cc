#include "format/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"
#include "format/text_pattern.h"

namespace emoe {
namespace {

// Whether a character is one of a word: Unicode's \w, as UTS #18 defines it.
bool is_word(std::string_view character) {
  static const TextPattern kWord =
      TextPattern::regex(R"([\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}\x{200c}\x{200d}\x{24b6}-\x{24e9})"
                         R"(\x{1f130}-\x{1f149}\x{1f150}-\x{1f169}\x{1f170}-\x{1f189}])")
          .value();
  bool found = false;
  kWord.for_matches(character, [&](size_t, size_t) { found = true; });
  return found;
}

bool ends_in_word(std::string_view before) {
  size_t begin = before.size();
  while (begin > 0 && (static_cast<unsigned char>(before[--begin]) & 0xC0) == 0x80) {
  }
  return is_word(before.substr(begin));
}

bool begins_in_word(std::string_view behind) {
  return is_word(behind.substr(0, first_character(behind).bytes));
}

}  // namespace

AddedTokenFinder::AddedTokenFinder(std::span<const AddedToken> tokens, bool split_special_tokens,
                                   const Form& form) {
  for (const AddedToken& token : tokens) {
    if (split_special_tokens && token.special) continue;
    std::optional<std::string> text = form(token);
    if (!text || text->empty()) continue;
    auto& entries = by_first_byte_[static_cast<unsigned char>(text->front())];
    entries.push_back({&token, std::move(*text)});
  }
  for (auto& entries : by_first_byte_) {
    std::ranges::stable_sort(entries, std::greater(),
                             [](const Entry& entry) { return entry.form.size(); });
  }
}

AddedTokenFinder::AddedTokenFinder(const TokenizerRules& rules)
    : AddedTokenFinder(rules.added, rules.split_special_tokens,
                       [](const AddedToken& token) { return token.content; }) {}

const AddedTokenFinder::Entry* AddedTokenFinder::at(std::string_view text, size_t place,
                                                    const Allows& allows) const {
  const std::string_view rest = text.substr(place);
  for (const Entry& entry : by_first_byte_[static_cast<unsigned char>(rest.front())]) {
    if (!rest.starts_with(entry.form)) continue;
    if (!allows || allows(place, place + entry.form.size())) return &entry;
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, const Visit& visit) const {
  split(text, nullptr, visit);
}

void AddedTokenFinder::split(std::string_view text, const Allows& allows,
                             const Visit& visit) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const Entry* entry = at(text, i, allows);
    if (entry == nullptr) {
      ++i;
      continue;
    }
    const AddedToken* token = entry->token;
    const size_t end = i + entry->form.size();
    if (token->single_word &&
        (ends_in_word(text.substr(0, i)) || begins_in_word(text.substr(end)))) {
      i = end;
      continue;
    }
    const size_t begin =
        !token->lstrip || i < done ? i : done + without_trailing_space(text.substr(done, i - done));
    const size_t behind = token->rstrip ? end + leading_space(text.substr(end)) : end;
    if (begin > done) visit(text.substr(done, begin - done), nullptr);
    visit(text.substr(std::max(begin, done), behind - std::max(begin, done)), token);
    done = behind;
    i = end;
  }
  if (done < text.size()) visit(text.substr(done), nullptr);
}

}  // namespace emoe
