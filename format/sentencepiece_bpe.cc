#include "format/sentencepiece_bpe.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "base/utf8.h"

namespace emoe {
namespace {

using Type = SentencePieceModel::Type;
using Pieces = std::unordered_map<std::string_view, float>;  // normal ones, with their scores

// The places inside a piece between two characters.
std::vector<size_t> places_inside(std::string_view text) {
  std::vector<size_t> places;
  for (size_t at = 0; at < text.size();) {
    if (at > 0) places.push_back(at);
    at += std::max<size_t>(1, first_character(text.substr(at)).bytes);
  }
  return places;
}

bool has_its_characters(std::string_view text, const Pieces& pieces) {
  size_t begin = 0;
  std::vector<size_t> places = places_inside(text);
  places.push_back(text.size());
  return std::ranges::all_of(places, [&](size_t end) {
    return pieces.contains(text.substr(std::exchange(begin, end), end - begin));
  });
}

bool is_left_to_the_library(const SentencePieceModel& model) {
  const auto count = [&](Type type) {
    return std::ranges::count(model.pieces, type, &SentencePieceModel::Piece::type);
  };
  return !model.is_bpe || model.has_character_map || model.remove_extra_whitespaces ||
         !model.marks_spaces || count(Type::byte) != 256 || count(Type::user_defined) > 0 ||
         count(Type::unused) > 0;
}

}  // namespace

std::optional<BpeModel> bpe_of(const SentencePieceModel& model) {
  if (is_left_to_the_library(model)) return std::nullopt;
  Pieces normal;
  std::vector<std::pair<std::string, int32_t>> vocabulary;
  for (size_t id = 0; id < model.pieces.size(); ++id) {
    const SentencePieceModel::Piece& piece = model.pieces[id];
    if (piece.type == Type::normal) normal[piece.text] = piece.score;
    if (piece.type == Type::normal || piece.type == Type::byte) {
      vocabulary.emplace_back(piece.text, static_cast<int32_t>(id));
    }
  }
  std::vector<std::pair<float, BpeModel::Merge>> scored;
  for (const auto& [text, score] : normal) {
    if (!has_its_characters(text, normal)) return std::nullopt;
    for (const size_t at : places_inside(text)) {
      const std::string_view left = text.substr(0, at);
      const std::string_view right = text.substr(at);
      if (normal.contains(left) && normal.contains(right))
        scored.emplace_back(score, BpeModel::Merge(left, right));
    }
  }
  std::ranges::sort(scored, [](const auto& a, const auto& b) {
    return a.first != b.first ? a.first > b.first : a.second < b.second;
  });
  std::vector<BpeModel::Merge> merges;
  std::vector<int32_t> ranks;  // equal ones are taken from the left
  for (size_t i = 0; i < scored.size(); ++i) {
    const bool same = i > 0 && scored[i].first == scored[i - 1].first;
    ranks.push_back(i == 0 ? 0 : ranks.back() + (same ? 0 : 1));
    merges.push_back(std::move(scored[i].second));
  }
  auto made = BpeModel::make(vocabulary, merges, {.byte_fallback = true}, ranks);
  if (!made.ok()) return std::nullopt;
  return *std::move(made);
}

}  // namespace emoe
