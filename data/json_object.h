#pragma once

#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "base/json_parsing.h"

namespace emoe::data {

// A JSON object and which of its keys have something in them: an empty text, null, [] or {} have not.
struct ParsedObject {
  nlohmann::json object;
  std::vector<std::string> filled;
  DuplicateKeys keys;
  bool too_deep = false;
};

// Values nested deeper than `most_depth` are parsed and dropped. Throws what nlohmann's parser throws.
[[nodiscard]] ParsedObject parse_object(const std::string& text, int most_depth);

// By the first line of a file, and whether it is the last: what its lines are where they are no rows;
// empty where they may be, this one being good or faulty.
[[nodiscard]] std::string way_of(std::string_view line, bool last);

}  // namespace emoe::data
