#pragma once

#include <string>
#include <vector>

namespace emoe::config {

// The candidate a mistyped word most likely means (Damerau-Levenshtein distance, ASCII case and
// '-' against '_' count nothing), or empty when none is near.
[[nodiscard]] std::string nearest_word(const std::string& word,
                                       const std::vector<std::string>& candidates);

// " (did you mean \"tuning\"?)", or empty.
[[nodiscard]] std::string did_you_mean(const std::string& word,
                                       const std::vector<std::string>& candidates);

}  // namespace emoe::config
