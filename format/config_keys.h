#pragma once

#include <string>

namespace emoe {

// True for a key of config.json that changes nothing in what a decoder computes, whatever its value
// and architecture:
// notes of the program that wrote it, settings of training, and settings of generation as
// transformers kept them there before generation_config.json.
[[nodiscard]] bool changes_nothing(const std::string& key);

}  // namespace emoe
