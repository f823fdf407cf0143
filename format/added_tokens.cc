#include "format/added_tokens.h"

#include <algorithm>

#include "base/utf8.h"

namespace emoe {
namespace {

// Unicode's White_Space.
bool is_white_space(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || code == 0x20 || code == 0x85 || code == 0xA0 ||
         code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 || code == 0x2029 ||
         code == 0x202F || code == 0x205F || code == 0x3000;
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

// The bytes before the white space at the end of `text`.
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

}  // namespace

AddedTokenFinder::AddedTokenFinder(const TokenizerRules& rules) {
  for (const AddedToken& token : rules.added) {
    if (rules.split_special_tokens && token.special) continue;
    by_first_byte_[static_cast<unsigned char>(token.content.front())].push_back(&token);
  }
  for (auto& tokens : by_first_byte_) {
    std::ranges::sort(tokens, std::greater(),
                      [](const AddedToken* token) { return token->content.size(); });
  }
}

const AddedToken* AddedTokenFinder::at(std::string_view text) const {
  for (const AddedToken* token : by_first_byte_[static_cast<unsigned char>(text.front())]) {
    if (text.starts_with(token->content)) return token;
  }
  return nullptr;
}

void AddedTokenFinder::split(std::string_view text, const Visit& visit) const {
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const AddedToken* token = at(text.substr(i));
    if (token == nullptr) {
      ++i;
      continue;
    }
    const size_t end = i + token->content.size();
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
