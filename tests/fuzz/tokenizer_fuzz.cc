// Files of tokenizers: tokenizer.json with its settings (split at a line "---"), and SentencePiece models.
// What is loaded encodes and decodes.
#include "format/json_tokenizer.h"
#include "format/sentencepiece_model.h"
#include "format/tokenizer.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace emoe;
  static const testing::FuzzFolder folder;
  const std::string_view text = testing::text_of(data, size);
  const auto model = parse_sentencepiece(text, "tokenizer.model");
  if (model.ok()) (void)model->find("a");
  const size_t cut = text.find("\n---\n");
  const std::string_view settings =
      cut == std::string_view::npos ? std::string_view("{}") : text.substr(cut + 5);
  (void)folder.write("tokenizer_config.json", settings);
  (void)folder.write("tokenizer.json", text.substr(0, cut));
  const auto tokenizer = load_tokenizer(folder.path());
  if (!tokenizer.ok()) return 0;
  for (const int32_t id : (*tokenizer)->encode("The cat sat, 1234 \xe2\x82\xac")) {
    testing::expect(id >= 0 && id < (*tokenizer)->vocab_size());
    (void)(*tokenizer)->decode(std::vector<int32_t>{id});
  }
  return 0;
}
