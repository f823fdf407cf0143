#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"

namespace emoe::worker {

// SentencePiece, reached through a module of our own that is loaded when first needed. Debian's
// libsentencepiece.so exports the old protobuf it carries inside; linked into a program that also
// uses libprotobuf, each calls into the other's functions and the program crashes before main. The
// module is therefore loaded apart (RTLD_LOCAL, RTLD_DEEPBIND). INTERNAL when it cannot be loaded: it
// belongs beside the program. Thread-safe after parse().
class SentencePieceModel {
 public:
  // Takes the bytes of a tokenizer.model; DATA_LOSS for others.
  [[nodiscard]] Status parse(const std::string& serialized);
  [[nodiscard]] int32_t size() const;
  [[nodiscard]] int32_t bos() const;  // -1: none
  [[nodiscard]] int32_t eos() const;
  [[nodiscard]] Result<std::vector<int32_t>> encode(const std::string& text) const;
  [[nodiscard]] Result<std::string> decode(const std::vector<int32_t>& ids) const;

 private:
  std::unique_ptr<void, void (*)(void*)> processor_{nullptr, nullptr};
};

// Trains on `sentences`; `options` are SentencePiece's trainer flags. The model's bytes, or
// INVALID_ARGUMENT with what SentencePiece says.
[[nodiscard]] Result<std::string> train_sentencepiece(
    const std::vector<std::string>& sentences,
    const std::vector<std::pair<std::string, std::string>>& options);

}  // namespace emoe::worker
