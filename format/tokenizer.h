#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/status.h"
#include "format/added_tokens.h"
#include "format/decoder_config.h"
#include "format/tokenizer_rules.h"

namespace emoe {

// A part of a text. What special tokens are written in it are tokens where a template wrote it, and
// letters where it is a user's words.
struct TextStretch {
  std::string_view text;
  bool written = false;  // by a template
  bool counted = false;  // where it ends, among the ids, is asked for
};

// The ids of stretches in a row, and for each that is counted how many ids the text up to its end has
// by itself, BOS included (for the others 0).
struct StretchIds {
  std::vector<int32_t> ids;
  std::vector<int32_t> ends;
};

// Text to token ids and back, by the rules that stand beside its file (format/tokenizer_rules.h).
// Thread-safe.
class Tokenizer {
 public:
  virtual ~Tokenizer() = default;
  Tokenizer(const Tokenizer&) = delete;
  Tokenizer& operator=(const Tokenizer&) = delete;

  // The ids of `text`, the BOS before them where has_bos().
  [[nodiscard]] virtual std::vector<int32_t> encode(const std::string& text) const = 0;
  // The ids of one text that is made of stretches, valid UTF-8 each; with `bos` the BOS before them
  // where has_bos(). A special token must lie in stretches that a template wrote, added tokens that are
  // none may lie anywhere.
  [[nodiscard]] StretchIds encode_stretches(std::span<const TextStretch> stretches, bool bos) const;
  // What transformers gives for a text by itself: encode(), and the EOS behind it where has_eos().
  [[nodiscard]] std::vector<int32_t> tokenize(const std::string& text) const;
  // Text of the ids; special tokens have none, ids outside the vocabulary become U+FFFD.
  [[nodiscard]] virtual std::string decode(std::span<const int32_t> ids) const = 0;
  // Pieces of the file; and one more than the largest id, added tokens included.
  [[nodiscard]] virtual int32_t pieces() const = 0;
  [[nodiscard]] virtual int32_t vocab_size() const = 0;

  [[nodiscard]] int32_t bos_id() const { return rules_.bos_id; }  // -1: none
  [[nodiscard]] int32_t eos_id() const { return rules_.eos_id; }
  // Whether texts begin with the BOS, and whether transformers puts the EOS behind any text.
  [[nodiscard]] bool has_bos() const { return rules_.add_bos; }
  [[nodiscard]] bool has_eos() const { return rules_.add_eos; }
  [[nodiscard]] const TokenizerRules& rules() const { return rules_; }

  [[nodiscard]] const std::filesystem::path& file() const { return file_; }
  [[nodiscard]] const std::string& sha256() const { return sha256_; }  // of the file

  // INVALID_ARGUMENT when the tokenizer has more pieces than the model has embeddings. An added token
  // may lie beyond them (folders of Llama 2 have such a <pad>); a text that has it is the fault.
  [[nodiscard]] Status check_fits(int64_t model_vocab_size) const;
  // INVALID_ARGUMENT naming the first of the ids that the model has no embedding for.
  [[nodiscard]] Status check_ids(std::span<const int32_t> ids, int64_t model_vocab_size) const;

 protected:
  Tokenizer(std::filesystem::path file, std::string sha256, TokenizerRules rules);

  // Appends the ids of a stretch in which special tokens are letters. `first`: it begins the text.
  virtual void encode_words(std::string_view stretch, bool first,
                            std::vector<int32_t>& ids) const = 0;

 private:
  std::filesystem::path file_;
  std::string sha256_;
  TokenizerRules rules_;
  AddedTokenFinder special_;  // the special tokens of rules_
};

// Every row ends in the tokenizer's end of text, but generation stops at the ids of config.json:
// where they differ, the model learns an end at which generation does not stop. Empty, or one
// sentence that says so of the folder and what to do; it is an error where config.json names ids.
[[nodiscard]] std::string end_of_text_mismatch(const Tokenizer& tokenizer,
                                               const DecoderConfig& config,
                                               const std::filesystem::path& folder);

// The tokenizer of a model folder, or that of a file, of the kind it is: a tokenizer.model of
// SentencePiece or, as Llama 3's, of tiktoken, or a tokenizer.json. The errors of tokenizer_file(path), and NOT_FOUND: no such
// file. DATA_LOSS: no SentencePiece model. INVALID_ARGUMENT: what cannot be obeyed, by name, or no EOS,
// by which every row ends. INTERNAL: SentencePiece cannot be loaded.
[[nodiscard]] Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path);

}  // namespace emoe
