#pragma once

#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include <nlohmann/json.hpp>

namespace emoe::worker {

// The entries of a JSON file that is one list, `wanted` in words ("a JSON list of strings"). Each
// entry must pass `good`; JobError 65 naming the first that does not, or what the file is instead.
[[nodiscard]] std::vector<nlohmann::json> read_json_list(
    const std::filesystem::path& path, const std::string& wanted,
    const std::function<bool(const nlohmann::json&)>& good);

}  // namespace emoe::worker
