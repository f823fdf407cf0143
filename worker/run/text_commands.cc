#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "worker/run/commands.h"
#include "worker/run/job_error.h"
#include "worker/run/json_list.h"
#include "worker/text/sentencepiece_tokenizer.h"

namespace emoe::worker {

void tokenize_texts(const TokenizeRequest& request) {
  const auto tokenizer = input_or_throw(load_tokenizer(request.model));
  nlohmann::json ids = nlohmann::json::array();
  const auto texts = read_json_list(request.texts, "a JSON list of strings",
                                    [](const nlohmann::json& entry) { return entry.is_string(); });
  for (const auto& text : texts) ids.push_back(tokenizer->encode(text.get<std::string>()));
  output_or_throw(write_file_atomically(request.out, ids.dump() + "\n"));
}

void train_tokenizer_file(const TrainTokenizerRequest& request) {
  input_or_throw(train_tokenizer(request.text, {.vocab_size = request.vocab_size}, request.out));
}

}  // namespace emoe::worker
