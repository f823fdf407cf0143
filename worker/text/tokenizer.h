#pragma once

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"
#include "worker/text/sentencepiece_model.h"

namespace emoe::worker {

// A SentencePiece tokenizer (tokenizer.model of the Llama family) with the rules of the reference:
// BOS and EOS are ids, never text ("</s>" in a text is four characters), and the normaliser stored
// in the model decides about runs of spaces. Thread-safe.
class Tokenizer {
 public:
  // Reads tokenizer_file(path). Its errors, and NOT_FOUND: no such file. DATA_LOSS: no SentencePiece
  // model. INVALID_ARGUMENT: a model without BOS or EOS. INTERNAL: SentencePiece cannot be loaded.
  [[nodiscard]] static Result<Tokenizer> load(const std::filesystem::path& path);

  // [BOS] + the ids of `text`.
  [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const;
  // Text of the ids; BOS and EOS have none, ids outside the vocabulary become U+FFFD.
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const;

  [[nodiscard]] int32_t vocab_size() const { return model_.size(); }
  [[nodiscard]] int32_t bos_id() const { return model_.bos(); }
  [[nodiscard]] int32_t eos_id() const { return model_.eos(); }
  [[nodiscard]] const std::filesystem::path& file() const { return file_; }
  [[nodiscard]] const std::string& sha256() const { return sha256_; }  // of the file

  // INVALID_ARGUMENT when the tokenizer has more pieces than the model has embeddings.
  [[nodiscard]] Status check_fits(int64_t model_vocab_size) const;

 private:
  Tokenizer() = default;
  SentencePieceModel model_;
  std::filesystem::path file_;
  std::string sha256_;
};

struct TokenizerTraining {
  int32_t vocab_size = 2048;        // 3 control pieces and 256 bytes included
  double character_coverage = 1.0;  // rarer characters are spelt as bytes
};

// Trains a tokenizer as Llama's was: BPE, bytes for unknown characters, unk 0, bos 1, eos 2, no
// normalisation, a space put before the text, digits apart; one thread, so that the same text gives
// the same file. Each line of `text_file` (UTF-8) is a sentence; blank lines are skipped. `out` is
// written atomically. INVALID_ARGUMENT: a line that is no UTF-8, no text, or a vocabulary that the
// text cannot fill.
[[nodiscard]] Status train_tokenizer(const std::filesystem::path& text_file,
                                     const TokenizerTraining& options,
                                     const std::filesystem::path& out);

}  // namespace emoe::worker
