#include "worker/text/tokenizer.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "format/tokenizer_file.h"
#include "worker/text/sentencepiece_tokenizer.h"

namespace emoe::worker {

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

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(const std::filesystem::path file, tokenizer_file(path));
  return load_sentencepiece(file);
}

}  // namespace emoe::worker
