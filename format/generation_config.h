#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/warning.h"
#include "format/tokenizer.h"

namespace emoe {

// The ids that the folder's generation_config.json ends a text at, none where it names none;
// nothing where there is no such file. DecoderConfig::read() has found it good.
[[nodiscard]] std::optional<std::vector<int64_t>> generation_ends(
    const std::filesystem::path& folder);

// transformers' generate() heeds that file alone: what there is to say of one that lacks the
// tokenizer's end of text. (That of an export gets it.)
[[nodiscard]] std::optional<Warning> end_of_generation_warning(const Tokenizer& tokenizer,
                                                               const std::filesystem::path& folder);

}  // namespace emoe
