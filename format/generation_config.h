#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "base/warning.h"
#include "format/decoder_config.h"

namespace emoe {

// The ids that the folder's generation_config.json ends a text at, none where it names none;
// nothing where there is no such file. DecoderConfig::read() has found it good.
[[nodiscard]] std::optional<std::vector<int64_t>> generation_ends(
    const std::filesystem::path& folder);

// transformers' generate() heeds that file alone, and without it config.json: what there is to say
// where it lacks the token `taught`, in which rows end. (generation_config.json of an export has it.)
[[nodiscard]] std::optional<Warning> end_of_generation_warning(int64_t taught,
                                                               const DecoderConfig& config,
                                                               const std::filesystem::path& folder);

}  // namespace emoe
