#include "format/generation_config.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/file.h"
#include "base/input_file.h"
#include "format/strict_json.h"

namespace emoe {

std::optional<std::vector<int64_t>> generation_ends(const std::filesystem::path& folder) {
  const std::filesystem::path file = folder / "generation_config.json";
  if (!has_entry(file)) return std::nullopt;
  std::vector<int64_t> ends;
  const auto text = read_file(file);
  const auto config = text.ok() ? parse_strict_json(*text, file.string()) : text.status();
  if (!config.ok() || !config->is_object() || !config->contains("eos_token_id")) return ends;
  const nlohmann::json& named = (*config)["eos_token_id"];
  for (const nlohmann::json& end : named.is_array() ? named : nlohmann::json::array({named})) {
    if (end.is_number_integer()) ends.push_back(end.get<int64_t>());
  }
  return ends;
}

std::optional<Warning> end_of_generation_warning(int64_t taught, const DecoderConfig& config,
                                                 const std::filesystem::path& folder) {
  const auto own = generation_ends(folder);
  if (!own && config.eos_token_file.empty()) return std::nullopt;  // end_of_text_mismatch() says it
  const std::vector<int64_t> ends = own.value_or(config.eos_token_ids);
  if (std::ranges::find(ends, taught) != ends.end()) return std::nullopt;
  const char* file = own ? "generation_config.json" : "config.json";
  return Warning{.code = warning::kDefaultDiffers,
                 .text = absl::StrCat(
                     "every row ends in token ", taught, ", ", file, " ",
                     ends.empty() ? "names no eos_token_id"
                                  : absl::StrCat("stops at ", absl::StrJoin(ends, ", "), " only"),
                     ": ", own ? "that" : "generation_config.json", " of the export stops at ",
                     taught, " too"),
                 .where = absl::StrCat(file, ": eos_token_id")};
}

}  // namespace emoe
