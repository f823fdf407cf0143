#include "format/tokenizer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/file.h"
#include "format/json_tokenizer.h"
#include "format/sentencepiece_tokenizer.h"
#include "format/tiktoken_tokenizer.h"
#include "format/tokenizer_file.h"

namespace emoe {

namespace {

// Where a text is a user's words: bytes [begin, end), ascending.
class WordRanges {
 public:
  void add(size_t begin, size_t end) { ranges_.emplace_back(begin, end); }
  [[nodiscard]] bool touches(size_t begin, size_t end) const {
    const auto range =
        std::ranges::upper_bound(ranges_, begin, {}, &std::pair<size_t, size_t>::second);
    return range != ranges_.end() && range->first < end;
  }

 private:
  std::vector<std::pair<size_t, size_t>> ranges_;
};

}  // namespace

Tokenizer::Tokenizer(std::filesystem::path file, std::string sha256, TokenizerRules rules)
    : file_(std::move(file)),
      sha256_(std::move(sha256)),
      rules_(std::move(rules)),
      special_(rules_.added, /*split_special_tokens=*/false, [](const AddedToken& token) {
        return token.special ? std::optional(token.content) : std::nullopt;
      }) {}

StretchIds Tokenizer::encode_stretches(std::span<const TextStretch> stretches, bool bos) const {
  std::string text;
  WordRanges words;
  std::vector<size_t> ends;
  for (const TextStretch& stretch : stretches) {
    if (!stretch.written) words.add(text.size(), text.size() + stretch.text.size());
    text += stretch.text;
    ends.push_back(text.size());
  }
  StretchIds result{.ids = {}, .ends = std::vector<int32_t>(stretches.size())};
  std::vector<int32_t>& ids = result.ids;
  ids.reserve(text.size() / 3 + 2);
  if (bos && has_bos()) ids.push_back(bos_id());
  size_t next = 0;  // of the stretches, the first whose end is not passed
  for (; next < ends.size() && ends[next] == 0; ++next) result.ends[next] = std::ssize(ids);
  const auto visit = [&](std::string_view part, const AddedToken* token) {
    const size_t at = part.data() - text.data();
    const auto before = static_cast<int32_t>(ids.size());
    if (token != nullptr) {
      ids.push_back(token->id);
    } else {
      encode_words(part, at == 0, ids);
    }
    for (; next < ends.size() && ends[next] <= at + part.size(); ++next) {
      if (!stretches[next].counted) continue;
      const std::string_view front = part.substr(0, ends[next] - at);
      std::vector<int32_t> alone;
      if (front.size() == part.size()) {
        alone.assign(ids.begin() + before, ids.end());
      } else if (token == nullptr) {
        encode_words(front, at == 0, alone);
      } else if (front.find(token->content) != std::string_view::npos) {
        alone.push_back(token->id);
      }
      result.ends[next] = before + static_cast<int32_t>(alone.size());
    }
  };
  special_.split(
      text, [&](size_t begin, size_t end) { return !words.touches(begin, end); }, visit);
  return result;
}

std::vector<int32_t> Tokenizer::tokenize(const std::string& text) const {
  std::vector<int32_t> ids = encode(text);
  if (has_eos()) ids.push_back(eos_id());
  return ids;
}

Status Tokenizer::check_fits(int64_t model_vocab_size) const {
  if (pieces() <= model_vocab_size) return ok_status();
  return absl::InvalidArgumentError(absl::StrCat(
      file_.string(), ": the tokenizer has ", pieces(), " pieces, but the model's embedding only ",
      model_vocab_size, " rows; they do not belong together"));
}

Status Tokenizer::check_ids(std::span<const int32_t> ids, int64_t model_vocab_size) const {
  const auto bad = std::ranges::find_if(ids, [&](int32_t id) { return id >= model_vocab_size; });
  if (bad == ids.end()) return ok_status();
  const AddedToken* added = rules_.find(*bad);
  return absl::InvalidArgumentError(absl::StrCat(
      "the token ", added == nullptr ? "" : absl::StrCat("\"", added->content, "\" "), "has id ",
      *bad, ", but the model's embedding only ", model_vocab_size, " rows"));
}

std::string end_of_text_mismatch(const Tokenizer& tokenizer, const DecoderConfig& config,
                                 const std::filesystem::path& folder) {
  const std::vector<int64_t>& ids = config.eos_token_ids;
  const int64_t taught = tokenizer.eos_id();
  if (std::ranges::find(ids, taught) != ids.end()) return "";
  const bool given = !config.eos_token_file.empty();
  return absl::StrCat(folder.string(), ": the tokenizer's end of text is token ", taught,
                      ", by which every row ends; ",
                      given ? absl::StrCat("eos_token_id of ", config.eos_token_file, " is ")
                            : "config.json names no eos_token_id, which means ",
                      ids.empty() ? "none" : absl::StrJoin(ids, ", "),
                      ": generated text would not stop; ",
                      given ? absl::StrCat("they do not belong together, or ",
                                           config.eos_token_file, " is to be mended")
                            : absl::StrCat("put \"eos_token_id\": ", taught, " into it"));
}

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(const std::filesystem::path file, tokenizer_file(path));
  if (file.extension() == ".json") return load_json_tokenizer(file);
  EMOE_ASSIGN_OR_RETURN(const FileReader reader, FileReader::open(file));
  constexpr size_t kLine = 1 << 10;
  EMOE_ASSIGN_OR_RETURN(const std::string front, reader.front(kLine));
  return is_tiktoken(front) ? load_tiktoken(file) : load_sentencepiece(file);
}

}  // namespace emoe
