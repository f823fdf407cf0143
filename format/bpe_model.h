#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/container/flat_hash_map.h>

#include "base/status.h"

namespace emoe {

// Byte-pair encoding (arXiv 1508.07909) as github.com/huggingface/tokenizers computes it: a word begins
// as its characters; of all neighbours that a merge joins, the pair of the earliest merge is joined
// first, the leftmost of equals. Thread-safe.
class BpeModel {
 public:
  struct Options {
    bool byte_fallback =
        false;  // a character without a piece becomes the pieces <0x00> … of its bytes
    bool ignore_merges = false;         // a word that is a piece is that piece
    bool fuse_unk = false;              // unknown characters side by side are one unknown piece
    std::string unk_token;              // of characters without a piece; empty: they are left out
    bool bytes_are_characters = false;  // pieces are bytes, and words are encoded byte by byte
  };
  using Merge = std::pair<std::string, std::string>;  // earlier ones come first

  // `ranks`: of the merges, of which several may have the same; empty: their order. INVALID_ARGUMENT: an
  // unk_token or a merge that is not in the vocabulary, naming it; an id twice.
  [[nodiscard]] static Result<BpeModel> make(
      const std::vector<std::pair<std::string, int32_t>>& vocabulary,
      const std::vector<Merge>& merges, Options options, std::span<const int32_t> ranks = {});

  // Appends the ids of a word. With bytes_are_characters any bytes, else valid UTF-8.
  void encode(std::string_view word, std::vector<int32_t>& ids) const;

  [[nodiscard]] int32_t find(std::string_view piece) const;  // -1: there is none
  // The piece of an id; null: there is none.
  [[nodiscard]] const std::string* piece(int32_t id) const;
  [[nodiscard]] int32_t size() const { return static_cast<int32_t>(pieces_.size()); }  // ids
  [[nodiscard]] const Options& options() const { return options_; }

 private:
  struct Joined {
    int32_t rank = 0;
    int32_t id = 0;
  };
  struct Symbol {
    int32_t id = 0;
    int32_t previous = -1;
    int32_t next = -1;
  };
  // What is known of a piece taken as a word.
  enum class AsWord : uint8_t { untried, itself, several };

  BpeModel() = default;
  [[nodiscard]] Status add_merges(const std::vector<Merge>& merges, std::span<const int32_t> ranks);
  void add_bytes();
  [[nodiscard]] const Joined* joined(int32_t left, int32_t right) const;
  void split(std::string_view word, std::vector<Symbol>& symbols) const;
  void merge(std::vector<Symbol>& symbols) const;
  void encode_anew(std::string_view word, std::vector<int32_t>& ids) const;
  // The same for a word that may be a piece.
  void encode_part(std::string_view word, std::vector<int32_t>& ids) const;

  Options options_;
  std::vector<std::string> pieces_;  // by id
  // Of pieces_.
  absl::flat_hash_map<std::string_view, int32_t, std::hash<std::string_view>, std::equal_to<>> ids_;
  absl::flat_hash_map<uint64_t, Joined> merges_;  // by both ids
  std::array<int32_t, 256> byte_ids_{};           // of <0x00> …, or of the bytes; -1: none
  int32_t unk_id_ = -1;
  std::unique_ptr<std::atomic<AsWord>[]> as_word_;  // by id
  // No merge joins something to a "▁" behind it: what comes before one and what begins with it are
  // encoded by themselves.
  bool parts_at_spaces_ = false;
};

}  // namespace emoe
