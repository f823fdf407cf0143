#include "format/bpe_model.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/utf8.h"

namespace emoe {
namespace {

constexpr std::string_view kSpace = "\u2581";  // as pieces of characters have it

constexpr int32_t kMaxPieceId = 1 << 24;  // above any vocabulary

uint64_t pair_of(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(left) << 32) | static_cast<uint32_t>(right);
}

// A pair that may be joined: the symbol at `place` with the one behind it, into `id`.
struct Candidate {
  int32_t rank = 0;
  int32_t place = 0;
  int32_t id = 0;

  // Of a heap the largest comes first.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : place > other.place;
  }
};

}  // namespace

Result<BpeModel> BpeModel::make(const std::vector<std::pair<std::string, int32_t>>& vocabulary,
                                const std::vector<Merge>& merges, Options options,
                                std::span<const int32_t> ranks) {
  BpeModel model;
  model.options_ = std::move(options);
  for (const auto& [text, id] : vocabulary) {
    if (id < 0 || id >= kMaxPieceId) {
      return absl::InvalidArgumentError(absl::StrCat("\"", text, "\" has the id ", id));
    }
    if (id >= std::ssize(model.pieces_)) model.pieces_.resize(id + 1);
  }
  for (const auto& [text, id] : vocabulary) {
    std::string& place = model.pieces_[id];
    if (!place.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", place, "\" and \"", text, "\" both have the id ", id));
    }
    place = text;
  }
  for (int32_t id = 0; id < model.size(); ++id) {
    if (!model.pieces_[id].empty()) model.ids_[model.pieces_[id]] = id;
  }
  if (!model.options_.unk_token.empty()) {
    model.unk_id_ = model.find(model.options_.unk_token);
    if (model.unk_id_ < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("unk_token \"", model.options_.unk_token, "\" is not in the vocabulary"));
    }
  }
  model.add_bytes();
  EMOE_RETURN_IF_ERROR(model.add_merges(merges, ranks));
  model.as_word_ = std::make_unique<std::atomic<AsWord>[]>(model.pieces_.size());
  return model;
}

void BpeModel::add_bytes() {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = options_.bytes_are_characters ? std::string(1, static_cast<char>(byte))
                                                           : absl::StrFormat("<0x%02X>", byte);
    byte_ids_[byte] = find(text);
  }
}

Status BpeModel::add_merges(const std::vector<Merge>& merges, std::span<const int32_t> ranks) {
  merges_.reserve(merges.size());
  parts_at_spaces_ = !options_.bytes_are_characters && find(kSpace) >= 0;
  for (size_t rank = 0; rank < merges.size(); ++rank) {
    const auto& [left, right] = merges[rank];
    const std::string whole = left + right;
    for (const std::string* part : {&left, &right, &whole}) {
      if (find(*part) >= 0) continue;
      return absl::InvalidArgumentError(absl::StrCat("merge ", rank + 1, " (\"", left, "\" and \"",
                                                     right, "\") needs \"", *part,
                                                     "\", which is not in the vocabulary"));
    }
    if (right.starts_with(kSpace) && !left.ends_with(kSpace)) parts_at_spaces_ = false;
    merges_[pair_of(find(left), find(right))] = {
        ranks.empty() ? static_cast<int32_t>(rank) : ranks[rank], find(whole)};
  }
  return ok_status();
}

int32_t BpeModel::find(std::string_view piece) const {
  const auto found = ids_.find(piece);
  return found == ids_.end() ? -1 : found->second;
}

const std::string* BpeModel::piece(int32_t id) const {
  return id < 0 || id >= size() || pieces_[id].empty() ? nullptr : &pieces_[id];
}

const BpeModel::Joined* BpeModel::joined(int32_t left, int32_t right) const {
  const auto found = merges_.find(pair_of(left, right));
  return found == merges_.end() ? nullptr : &found->second;
}

// A character without a piece is several symbols of its bytes, one unknown piece, or nothing.
void BpeModel::split(std::string_view word, std::vector<Symbol>& symbols) const {
  bool unknown = false;  // one is to be put before the next known piece
  const auto add = [&](int32_t id) {
    const auto place = static_cast<int32_t>(symbols.size());
    symbols.push_back({id, place - 1, place + 1});
  };
  const auto flush = [&] {
    if (unknown) add(unk_id_);
    unknown = false;
  };
  if (options_.bytes_are_characters) {
    for (const char c : word) {
      const int32_t id = byte_ids_[static_cast<unsigned char>(c)];
      if (id >= 0) {
        flush();
        add(id);
      } else if (unk_id_ >= 0) {
        if (!options_.fuse_unk) flush();
        unknown = true;
      }
    }
    return flush();
  }
  for (size_t at = 0; at < word.size();) {
    const size_t bytes = std::max<size_t>(1, first_character(word.substr(at)).bytes);
    const std::string_view character = word.substr(at, bytes);
    at += bytes;
    if (const int32_t id = find(character); id >= 0) {
      flush();
      add(id);
      continue;
    }
    const auto byte_id = [&](char c) { return byte_ids_[static_cast<unsigned char>(c)]; };
    if (options_.byte_fallback &&
        std::ranges::all_of(character, [&](char c) { return byte_id(c) >= 0; })) {
      for (const char c : character) add(byte_id(c));
    } else if (unk_id_ >= 0) {
      if (!options_.fuse_unk) flush();
      unknown = true;
    }
  }
  flush();
}

void BpeModel::merge(std::vector<Symbol>& symbols) const {
  if (symbols.empty()) return;
  symbols.back().next = -1;
  std::vector<Candidate> heap;
  const auto consider = [&](int32_t place) {
    if (place < 0 || symbols[place].next < 0) return false;
    const Joined* pair = joined(symbols[place].id, symbols[symbols[place].next].id);
    if (pair == nullptr) return false;
    heap.push_back({pair->rank, place, pair->id});
    return true;
  };
  const auto last = static_cast<int32_t>(symbols.size());
  for (int32_t place = 0; place < last; ++place) consider(place);
  std::make_heap(heap.begin(), heap.end());
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const Candidate best = heap.back();
    heap.pop_back();
    Symbol& left = symbols[best.place];
    if (left.id < 0 || left.next < 0) continue;  // joined to another meanwhile
    Symbol& right = symbols[left.next];
    const Joined* pair = joined(left.id, right.id);
    if (pair == nullptr || pair->id != best.id) continue;
    left.id = best.id;
    right.id = -1;
    left.next = right.next;
    if (right.next >= 0) symbols[right.next].previous = best.place;
    if (consider(left.previous)) std::push_heap(heap.begin(), heap.end());
    if (consider(best.place)) std::push_heap(heap.begin(), heap.end());
  }
}

void BpeModel::encode_anew(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  split(word, symbols);
  merge(symbols);
  for (const Symbol& symbol : symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

// Most words are pieces, and most pieces are what their merges make: that is found out once.
void BpeModel::encode_part(std::string_view word, std::vector<int32_t>& ids) const {
  const int32_t whole = find(word);
  if (whole < 0) return encode_anew(word, ids);
  std::atomic<AsWord>& known = as_word_[whole];
  if (known.load(std::memory_order_relaxed) == AsWord::itself) return ids.push_back(whole);
  const size_t before = ids.size();
  encode_anew(word, ids);
  const bool itself = ids.size() == before + 1 && ids.back() == whole;
  known.store(itself ? AsWord::itself : AsWord::several, std::memory_order_relaxed);
}

void BpeModel::encode(std::string_view word, std::vector<int32_t>& ids) const {
  if (options_.ignore_merges) {
    if (const int32_t whole = find(word); whole >= 0) return ids.push_back(whole);
  }
  while (parts_at_spaces_) {
    size_t end = 0;  // of the spaces in front, then of what stands up to the next
    while (word.substr(end).starts_with(kSpace)) end += kSpace.size();
    end = word.find(kSpace, end);
    if (end == std::string_view::npos) break;
    encode_part(word.substr(0, end), ids);
    word.remove_prefix(end);
  }
  if (!word.empty()) encode_part(word, ids);
}

}  // namespace emoe
