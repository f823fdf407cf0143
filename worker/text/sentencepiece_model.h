#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

namespace emoe::worker {

// SentencePiece, reached through a module of our own that is loaded when first needed. Debian's
// libsentencepiece.so exports the old protobuf it carries inside; linked into a program that also
// uses libprotobuf, each calls into the other's functions and the program crashes before main. The
// module is therefore loaded apart (RTLD_LOCAL, RTLD_DEEPBIND). Errors are plain text ("" = good).
// Thread-safe after parse().
class SentencePieceModel {
 public:
  // Takes the bytes of a tokenizer.model.
  [[nodiscard]] std::string parse(const std::string& serialized);
  [[nodiscard]] int32_t size() const;
  [[nodiscard]] int32_t bos() const;  // -1: none
  [[nodiscard]] int32_t eos() const;
  [[nodiscard]] std::string encode(const std::string& text, std::vector<int32_t>& ids) const;
  [[nodiscard]] std::string decode(const std::vector<int32_t>& ids, std::string& text) const;

 private:
  std::unique_ptr<void, void (*)(void*)> processor_{nullptr, nullptr};
};

// Trains on `sentences`; `options` are SentencePiece's trainer flags. The model's bytes go to
// `model`.
[[nodiscard]] std::string train_sentencepiece(
    const std::vector<std::string>& sentences,
    const std::vector<std::pair<std::string, std::string>>& options, std::string& model);

}  // namespace emoe::worker
