#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "worker/run/commands.h"
#include "worker/run/exit_code.h"
#include "worker/text/tokenizer.h"

namespace emoe::worker {
namespace {

std::vector<std::string> read_texts(const std::filesystem::path& path) {
  const std::string content = input_or_throw(read_file(path));
  const nlohmann::json json = nlohmann::json::parse(content, nullptr, /*allow_exceptions=*/false);
  const auto wrong = [&path](const std::string& what) {
    return JobError(ExitCode::data,
                    absl::StrCat(path.string(), ": ", what, "; wanted is a JSON list of strings"));
  };
  if (json.is_discarded()) throw wrong("is not valid JSON");
  if (!json.is_array()) throw wrong("is not a list");
  std::vector<std::string> texts;
  for (size_t i = 0; i < json.size(); ++i) {
    if (!json[i].is_string()) throw wrong(absl::StrCat("entry ", i, " is not a string"));
    texts.push_back(json[i].get<std::string>());
  }
  return texts;
}

}  // namespace

void tokenize_texts(const TokenizeRequest& request) {
  const Tokenizer tokenizer = input_or_throw(Tokenizer::load(request.model));
  nlohmann::json ids = nlohmann::json::array();
  for (const std::string& text : read_texts(request.texts)) ids.push_back(tokenizer.encode(text));
  output_or_throw(write_file_atomically(request.out, ids.dump() + "\n"));
}

void train_tokenizer_file(const TrainTokenizerRequest& request) {
  input_or_throw(train_tokenizer(request.text, {.vocab_size = request.vocab_size}, request.out));
}

}  // namespace emoe::worker
