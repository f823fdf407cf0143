#include "worker/text/sentencepiece_tokenizer.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "worker/text/sentencepiece_model.h"

namespace emoe::worker {
namespace {

// SentencePiece cuts nothing below this, but silently drops a longer sentence; so lines are cut
// here first.
constexpr size_t kMaxSentenceBytes = 1 << 14;

// Where to cut a long line: behind the last space within the limit, never inside a character.
size_t cut_position(std::string_view line) {
  if (line.size() <= kMaxSentenceBytes) return line.size();
  const auto space = line.rfind(' ', kMaxSentenceBytes - 1);
  if (space != std::string_view::npos && space > 0) return space;
  size_t at = kMaxSentenceBytes;
  while (at > 1 && (static_cast<unsigned char>(line[at]) & 0xC0) == 0x80) --at;
  return at;
}

Result<std::vector<std::string>> read_sentences(const std::filesystem::path& text_file) {
  EMOE_ASSIGN_OR_RETURN(const MappedFile mapping, MappedFile::open(text_file));
  std::string_view text(reinterpret_cast<const char*>(mapping.bytes().data()),
                        mapping.bytes().size());
  std::vector<std::string> sentences;
  for (int64_t number = 1; !text.empty(); ++number) {
    const auto end = std::min(text.find('\n'), text.size());
    std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (!is_utf8(line)) {
      return absl::InvalidArgumentError(
          absl::StrCat(text_file.string(), ":", number, ": is not UTF-8"));
    }
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    while (!line.empty()) {
      const size_t cut = cut_position(line);
      sentences.emplace_back(line.substr(0, cut));
      line.remove_prefix(cut);
    }
  }
  return sentences;
}

class SentencePieceTokenizer final : public Tokenizer {
 public:
  SentencePieceTokenizer(std::filesystem::path file, std::string sha256, SentencePieceModel model)
      : Tokenizer(std::move(file), std::move(sha256)), model_(std::move(model)) {}

  [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const override {
    Result<std::vector<int32_t>> ids = model_.encode(text);
    EMOE_CHECK(ids.ok(), ids.status().ToString());  // a loaded model takes any text
    ids->insert(ids->begin(), bos_id());
    return *std::move(ids);
  }
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const override;
  [[nodiscard]] int32_t vocab_size() const override { return model_.size(); }
  [[nodiscard]] int32_t bos_id() const override { return model_.bos(); }
  [[nodiscard]] int32_t eos_id() const override { return model_.eos(); }

 private:
  SentencePieceModel model_;
};

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  std::vector<int32_t> known;
  const auto flush = [&] {
    const Result<std::string> part = model_.decode(known);
    EMOE_CHECK(part.ok(), part.status().ToString());
    text += *part;
    known.clear();
  };
  for (const int32_t id : ids) {
    if (id >= 0 && id < vocab_size()) {
      known.push_back(id);
      continue;
    }
    flush();
    text += "\uFFFD";
  }
  flush();
  return text;
}

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_sentencepiece(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(const std::string bytes, read_file(file));
  SentencePieceModel model;
  EMOE_RETURN_IF_ERROR(with_context(model.parse(bytes), file.string()));
  if (model.bos() < 0 || model.eos() < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        file.string(), ": has no begin or no end of text piece (<s>, </s>), which a Llama needs"));
  }
  return std::make_unique<SentencePieceTokenizer>(file, sha256_hex(bytes), std::move(model));
}

Status train_tokenizer(const std::filesystem::path& text_file, const TokenizerTraining& options,
                       const std::filesystem::path& out) {
  EMOE_ASSIGN_OR_RETURN(const std::vector<std::string> sentences, read_sentences(text_file));
  if (sentences.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(text_file.string(), ": has no text"));
  }
  const Result<std::string> model = train_sentencepiece(
      sentences, {{"model_type", "bpe"},
                  {"vocab_size", absl::StrCat(options.vocab_size)},
                  {"character_coverage", absl::StrCat(options.character_coverage)},
                  {"byte_fallback", "true"},
                  {"split_digits", "true"},
                  {"normalization_rule_name", "identity"},
                  {"remove_extra_whitespaces", "false"},
                  {"allow_whitespace_only_pieces", "true"},
                  {"add_dummy_prefix", "true"},
                  {"unk_id", "0"},
                  {"bos_id", "1"},
                  {"eos_id", "2"},
                  {"pad_id", "-1"},
                  {"unk_surface", " \xE2\x81\x87 "},
                  {"max_sentence_length", absl::StrCat(kMaxSentenceBytes)},
                  {"input_sentence_size", "0"},
                  {"shuffle_input_sentence", "false"},
                  {"num_threads", "1"},
                  {"minloglevel", "2"}});
  if (!model.ok()) {
    return with_context(model.status(),
                        absl::StrCat("cannot train a tokenizer of ", options.vocab_size,
                                     " pieces on ", text_file.string()));
  }
  return with_context(write_file_atomically(out, *model), "train tokenizer");
}

}  // namespace emoe::worker
