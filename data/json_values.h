#pragma once

#include <string>
#include <vector>

#include <nlohmann/json.hpp>

#include "data/row_format.h"

namespace emoe::data {

// "an array", "null": a value where another was wanted.
[[nodiscard]] std::string kind_of(const nlohmann::json& value);

// "\"a\" and \"b\""; of many the first.
[[nodiscard]] std::string quoted_keys(const std::vector<std::string>& keys);

// The conversation of a row of format chat: OpenAI's messages or ShareGPT's conversations.
bool parse_chat(const nlohmann::json& object, const RowParsing& parsing, SourceRow& row);

}  // namespace emoe::data
