#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include <nlohmann/json.hpp>

#include "base/status.h"

namespace emoe {

// JSON as RFC 8259 has it, and nothing beside: no byte-order mark, no NUL, no key twice in an
// object (a parser would keep one of the two values and nobody would know which), no nesting beyond
// 64 levels (code that walks the value may be recursive). `source` names the text in errors, which
// are INVALID_ARGUMENT.
[[nodiscard]] Result<nlohmann::json> parse_strict_json(std::string_view text,
                                                       const std::string& source);

// The object in a user's file, at most 64 MiB; an absent file is an empty object. The errors of
// read_input() and parse_strict_json(), INVALID_ARGUMENT also for another value than an object.
[[nodiscard]] Result<nlohmann::json> read_json_object(const std::filesystem::path& file);

}  // namespace emoe
