#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/status.h"

namespace emoe::worker {

// Text to token ids and back. BOS and EOS are ids, never text: "</s>" in a text is four characters.
// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // [BOS] + the ids of `text`.
  [[nodiscard]] virtual std::vector<int32_t> encode(const std::string& text) const = 0;
  // Text of the ids; BOS and EOS have none, ids outside the vocabulary become U+FFFD.
  [[nodiscard]] virtual std::string decode(std::span<const int32_t> ids) const = 0;
  [[nodiscard]] virtual int32_t vocab_size() const = 0;
  [[nodiscard]] virtual int32_t bos_id() const = 0;
  [[nodiscard]] virtual int32_t eos_id() const = 0;

  [[nodiscard]] const std::filesystem::path& file() const { return file_; }
  [[nodiscard]] const std::string& sha256() const { return sha256_; }  // of the file

  // INVALID_ARGUMENT when the tokenizer has more pieces than the model has embeddings.
  [[nodiscard]] Status check_fits(int64_t model_vocab_size) const;

 protected:
  Tokenizer(std::filesystem::path file, std::string sha256)
      : file_(std::move(file)), sha256_(std::move(sha256)) {}

 private:
  std::filesystem::path file_;
  std::string sha256_;
};

// The tokenizer of a model folder, or that of a file, of the kind its files are (one today:
// SentencePiece's tokenizer.model). The errors of tokenizer_file(path), and NOT_FOUND: no such file.
// DATA_LOSS: no SentencePiece model. INVALID_ARGUMENT: a model without BOS or EOS. INTERNAL:
// SentencePiece cannot be loaded.
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path);

}  // namespace emoe::worker
