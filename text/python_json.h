#pragma once

#include <string>

#include <nlohmann/json.hpp>

namespace emoe {

// A value as Python's json.dumps(value, ensure_ascii=False, indent=indent) writes it, which is what
// `tojson` is in the chat templates of transformers. `indent`: spaces of a level; negative: all on one
// line. (A whole number beyond 64 bits is a double here.)
[[nodiscard]] std::string python_json(const nlohmann::ordered_json& value, int indent = -1);

}  // namespace emoe
