#include "format/tokenizer.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "format/json_tokenizer.h"
#include "format/sentencepiece_tokenizer.h"
#include "format/tokenizer_file.h"

namespace emoe {

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
  return file.extension() == ".json" ? load_json_tokenizer(file) : load_sentencepiece(file);
}

}  // namespace emoe
