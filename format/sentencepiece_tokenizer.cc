#include "format/sentencepiece_tokenizer.h"

#include <algorithm>
#include <optional>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>

#include "base/check.h"
#include "base/input_file.h"
#include "base/module.h"
#include "base/sha256.h"
#include "base/utf8.h"
#include "format/added_tokens.h"
#include "format/sentencepiece_api.h"
#include "format/sentencepiece_bpe.h"
#include "format/sentencepiece_model.h"

namespace emoe {
namespace {

Result<const SentencePieceApi*> load_api() {
  static const Result<const void*> loaded = load_module(
      {.built = EMOE_SENTENCEPIECE_MODULE, .entry = kSentencePieceEntry, .binds_itself = true});
  if (!loaded.ok()) return absl::InternalError(loaded.status().message());
  return static_cast<const SentencePieceApi*>(*loaded);
}

// Put behind what `text` holds already.
SentencePieceApi::TextSink into(std::string& text) {
  return {&text, [](void* context, const char* data, size_t size) {
            static_cast<std::string*>(context)->append(data, size);
          }};
}

SentencePieceApi::IdSink into(std::vector<int32_t>& ids) {
  return {&ids, [](void* context, const int32_t* data, size_t count) {
            auto& all = *static_cast<std::vector<int32_t>*>(context);
            all.insert(all.end(), data, data + count);
          }};
}

using Processor = std::unique_ptr<void, void (*)(void*)>;

class SentencePieceTokenizer final : public Tokenizer {
 public:
  struct Processors {
    const SentencePieceApi& api;
    Processor prefixed;  // puts a space before a text
    Processor bare;      // does not
  };
  SentencePieceTokenizer(std::filesystem::path file, std::string sha256, TokenizerRules rules,
                         const SentencePieceModel& model, Processors processors)
      : Tokenizer(std::move(file), std::move(sha256), std::move(rules)),
        pieces_(static_cast<int32_t>(model.pieces.size())),
        vocab_size_(this->rules().vocab_size(pieces_)),
        removes_spaces_(model.remove_extra_whitespaces),
        bpe_(bpe_of(model)),
        api_(processors.api),
        prefixed_(std::move(processors.prefixed)),
        bare_(std::move(processors.bare)),
        added_(this->rules()),
        ordinary_(this->rules().added, /*split_special_tokens=*/true,
                  [](const AddedToken& token) { return token.content; }) {}

  [[nodiscard]] std::vector<int32_t> encode(const std::string& text) const override;
  [[nodiscard]] std::string decode(std::span<const int32_t> ids) const override;
  [[nodiscard]] int32_t pieces() const override { return pieces_; }
  [[nodiscard]] int32_t vocab_size() const override { return vocab_size_; }

 private:
  [[nodiscard]] bool has_prefix(std::string_view stretch, bool first) const;
  void encode_words(std::string_view stretch, bool first,
                    std::vector<int32_t>& ids) const override {
    encode_with(ordinary_, stretch, first, ids);
  }
  void encode_with(const AddedTokenFinder& finder, std::string_view text, bool first,
                   std::vector<int32_t>& ids) const;
  void encode_stretch(std::string_view stretch, bool prefix, std::vector<int32_t>& ids) const;

  int32_t pieces_;
  int32_t vocab_size_;
  bool removes_spaces_;          // at the edges of a stretch
  std::optional<BpeModel> bpe_;  // encodes what the library would
  const SentencePieceApi& api_;
  Processor prefixed_;
  Processor bare_;
  AddedTokenFinder added_;
  AddedTokenFinder ordinary_;  // without the special ones
};

// The first stretch of a text that the rules set apart begins the text.
bool SentencePieceTokenizer::has_prefix(std::string_view stretch, bool first) const {
  if (!rules().prefix_space) return false;
  if (rules().legacy) return true;
  const bool has_space = stretch.starts_with(' ') && !removes_spaces_;
  return first && !has_space && !stretch.starts_with("\u2581");
}

void SentencePieceTokenizer::encode_with(const AddedTokenFinder& finder, std::string_view text,
                                         bool first, std::vector<int32_t>& ids) const {
  finder.split(text, [&](std::string_view stretch, const AddedToken* token) {
    if (token != nullptr) return ids.push_back(token->id);
    encode_stretch(stretch, has_prefix(stretch, first && stretch.data() == text.data()), ids);
  });
}

void SentencePieceTokenizer::encode_stretch(std::string_view stretch, bool prefix,
                                            std::vector<int32_t>& ids) const {
  if (bpe_ && is_utf8(stretch)) {
    constexpr char kSpace[] = "\u2581";
    const bool any = prefix && !stretch.empty();
    return bpe_->encode(
        absl::StrCat(any ? kSpace : "", absl::StrReplaceAll(std::string(stretch), {{" ", kSpace}})),
        ids);
  }
  std::string error;  // a loaded model takes any text
  api_.encode((prefix ? prefixed_ : bare_).get(), stretch.data(), stretch.size(), into(ids),
              into(error));
  EMOE_CHECK(error.empty(), error);
}

std::vector<int32_t> SentencePieceTokenizer::encode(const std::string& text) const {
  std::vector<int32_t> ids;
  if (has_bos()) ids.push_back(bos_id());
  encode_with(added_, text, /*first=*/true, ids);
  return ids;
}

std::string SentencePieceTokenizer::decode(std::span<const int32_t> ids) const {
  std::string text;
  std::string error;
  std::vector<int32_t> known;
  bool first = true;
  const auto flush = [&] {
    const Processor& processor = has_prefix("", first) ? prefixed_ : bare_;
    api_.decode(processor.get(), known.data(), known.size(), into(text), into(error));
    EMOE_CHECK(error.empty(), error);
    first = first && known.empty();
    known.clear();
  };
  for (const int32_t id : ids) {
    const AddedToken* added = rules().find(id);
    if (added == nullptr && id >= 0 && id < pieces_) {
      known.push_back(id);
      continue;
    }
    flush();
    if (added == nullptr) text += "\uFFFD";
    if (added != nullptr && !added->special) text += added->content;
  }
  flush();
  return text;
}

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
  EMOE_RETURN_IF_ERROR(open_input(text_file, InputKind::text).status());
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

}  // namespace

Result<std::unique_ptr<Tokenizer>> load_sentencepiece(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(const std::string bytes,
                        read_input(file, InputKind::sentencepiece, 256 << 20));
  EMOE_ASSIGN_OR_RETURN(const SentencePieceModel model, parse_sentencepiece(bytes, file.string()));
  EMOE_ASSIGN_OR_RETURN(TokenizerRules rules, read_tokenizer_rules(file.parent_path(), model));
  if (rules.eos_id < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(file.string(), ": has no end of text, by which every row ends"));
  }
  EMOE_ASSIGN_OR_RETURN(const SentencePieceApi* api, load_api());
  std::string error;
  const auto parse = [&](bool prefix) {
    const std::string changed = with_dummy_prefix(bytes, prefix);
    return Processor(api->parse(changed.data(), changed.size(), into(error)), api->destroy);
  };
  SentencePieceTokenizer::Processors processors{*api, parse(true), parse(false)};
  if (!error.empty()) {
    return absl::DataLossError(
        absl::StrCat(file.string(), ": is no SentencePiece model (", error, ")"));
  }
  return std::make_unique<SentencePieceTokenizer>(file, sha256_hex(bytes), std::move(rules), model,
                                                  std::move(processors));
}

Status train_tokenizer(const std::filesystem::path& text_file, const TokenizerTraining& options,
                       const std::filesystem::path& out) {
  EMOE_ASSIGN_OR_RETURN(const std::vector<std::string> sentences, read_sentences(text_file));
  if (sentences.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(text_file.string(), ": has no text"));
  }
  EMOE_ASSIGN_OR_RETURN(const SentencePieceApi* api, load_api());
  const std::string vocab_size = absl::StrCat(options.vocab_size);
  const std::string coverage = absl::StrCat(options.character_coverage);
  const std::string longest = absl::StrCat(kMaxSentenceBytes);
  const std::vector<SentencePieceApi::Option> flags{{"model_type", "bpe"},
                                                    {"vocab_size", vocab_size.c_str()},
                                                    {"character_coverage", coverage.c_str()},
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
                                                    {"max_sentence_length", longest.c_str()},
                                                    {"input_sentence_size", "0"},
                                                    {"shuffle_input_sentence", "false"},
                                                    {"num_threads", "1"},
                                                    {"minloglevel", "2"}};
  std::vector<SentencePieceApi::Sentence> lines;
  for (const std::string& sentence : sentences) lines.push_back({sentence.data(), sentence.size()});
  std::string model;
  std::string error;
  api->train(lines.data(), lines.size(), flags.data(), flags.size(), into(model), into(error));
  if (!error.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("cannot train a tokenizer of ", vocab_size,
                                                   " pieces on ", text_file.string(), ": ", error));
  }
  return with_context(write_file_atomically(out, model), "train tokenizer");
}

}  // namespace emoe
