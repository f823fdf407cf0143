#pragma once

#include <optional>
#include <string>
#include <string_view>

#include <yaml-cpp/node/node.h>

namespace emoe::config {

// The type of a scalar under YAML 1.2's core schema; a quoted one (or one tagged !!str) is text.
// "yes", "on", "1_000" and "nan" are text too, as YAML 1.2 has it.
enum class ScalarKind { null, boolean, integer, real, text };

struct Scalar {
  ScalarKind kind = ScalarKind::text;
  std::string value;  // as written, unescaped
  bool quoted = false;
};

// Nothing for a node that is no scalar, or has a tag other than !!str.
[[nodiscard]] std::optional<Scalar> classify_scalar(const YAML::Node& node);
[[nodiscard]] ScalarKind classify_plain(const std::string& value);

// Describes a node for messages: "a list", "a mapping", "text \"yes\"", "the number 1e-4",
// "nothing".
[[nodiscard]] std::string describe(const YAML::Node& node);

// The value of an integer or real scalar; nothing when it does not fit.
[[nodiscard]] std::optional<int64_t> to_int64(const std::string& value);
[[nodiscard]] std::optional<double> to_double(const std::string& value);

// The shortest text that reads back as exactly this number (".inf", ".nan" as YAML writes them).
[[nodiscard]] std::string shortest(double value);

}  // namespace emoe::config
