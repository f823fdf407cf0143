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

std::optional<Warning> end_of_generation_warning(const Tokenizer& tokenizer,
                                                 const std::filesystem::path& folder) {
  const auto ends = generation_ends(folder);
  const int64_t taught = tokenizer.eos_id();
  if (!ends || std::ranges::find(*ends, taught) != ends->end()) return std::nullopt;
  return Warning{.code = warning::kDefaultDiffers,
                 .text = absl::StrCat(
                     "every row ends in token ", taught, ", generation_config.json ",
                     ends->empty() ? "names no eos_token_id"
                                   : absl::StrCat("stops at ", absl::StrJoin(*ends, ", "), " only"),
                     ": that of the export stops at ", taught, " too"),
                 .where = "generation_config.json: eos_token_id"};
}

}  // namespace emoe
