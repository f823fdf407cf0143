#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace emoe::worker {

// SentencePiece behind a wall: its headers declare an absl::string_view of their own, which clashes
// with Abseil's, so they are seen by the .cc alone and errors are plain text here ("" = good).
// Thread-safe after parse().
class SentencePieceModel {
 public:
  SentencePieceModel();
  SentencePieceModel(SentencePieceModel&&) noexcept;
  SentencePieceModel& operator=(SentencePieceModel&&) noexcept;
  ~SentencePieceModel();

  // Takes the bytes of a tokenizer.model.
  [[nodiscard]] std::string parse(const std::string& serialized);
  [[nodiscard]] int32_t size() const;
  [[nodiscard]] int32_t bos() const;  // -1: none
  [[nodiscard]] int32_t eos() const;
  [[nodiscard]] std::string encode(const std::string& text, std::vector<int32_t>& ids) const;
  [[nodiscard]] std::string decode(const std::vector<int32_t>& ids, std::string& text) const;
  [[nodiscard]] std::string piece(int32_t id) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Trains on `sentences`; `options` are SentencePiece's trainer flags. The model's bytes go to
// `model`.
[[nodiscard]] std::string train_sentencepiece(
    const std::vector<std::string>& sentences,
    const std::vector<std::pair<std::string, std::string>>& options, std::string& model);

}  // namespace emoe::worker
