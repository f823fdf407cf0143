#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/warning.h"
#include "format/tokenizer.h"

namespace emoe {

// A text with its ids as Tokenizer::tokenize() gives them.
struct ProbeText {
  std::string text;
  std::vector<int32_t> ids;
};

// What shows whether another tokenizer reads texts in the same way: some of `texts` (of rows), each
// at most 2 KiB of it, and texts with spaces and with the added tokens at their edges.
[[nodiscard]] std::vector<ProbeText> make_probe(const std::vector<std::string>& texts,
                                                const Tokenizer& tokenizer);

// [{"text": …, "ids": […]}, …]; and back, empty where it is none.
[[nodiscard]] std::string to_json(const std::vector<ProbeText>& probe);
[[nodiscard]] std::vector<ProbeText> probe_from_json(const std::string& text);

// What the tokenizer of a model folder reads in another way, a sentence each; that it cannot be
// loaded, too.
[[nodiscard]] std::vector<std::string> check_probe(const std::vector<ProbeText>& probe,
                                                   const std::filesystem::path& model);

// A folder may have its tokenizer twice, as tokenizer.model and as tokenizer.json. What is to be said
// where the other one reads texts in another way than `tokenizer`, which counts, or cannot be read.
[[nodiscard]] std::optional<Warning> tokenizer_choice(const Tokenizer& tokenizer);

}  // namespace emoe
