#include "worker/text/tokenizer.h"

#include <absl/strings/str_cat.h>

#include "format/tokenizer_file.h"
#include "worker/text/sentencepiece_tokenizer.h"

namespace emoe::worker {

Status Tokenizer::check_fits(int64_t model_vocab_size) const {
  if (vocab_size() <= model_vocab_size) return ok_status();
  return absl::InvalidArgumentError(
      absl::StrCat(file_.string(), ": the tokenizer has ", vocab_size(),
                   " pieces, but the model's embedding only ", model_vocab_size,
                   " rows; they do not belong together"));
}

Result<std::unique_ptr<Tokenizer>> load_tokenizer(const std::filesystem::path& path) {
  EMOE_ASSIGN_OR_RETURN(const std::filesystem::path file, tokenizer_file(path));
  return load_sentencepiece(file);
}

}  // namespace emoe::worker
