#include "worker/weights/side_files.h"

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kTokenizerFiles{"tokenizer_config.json", "special_tokens_map.json",
                                               "tokenizer.json",        "added_tokens.json",
                                               "chat_template.jinja",   "chat_template.json"};

Status write_synced(const fs::path& path, std::string_view text) {
  EMOE_ASSIGN_OR_RETURN(FileWriter writer, FileWriter::create(path));
  EMOE_RETURN_IF_ERROR(writer.write(text));
  return writer.close();
}

Status copy_whole(const fs::path& from, const fs::path& to) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(from));
  return write_synced(to, text);
}

Status copy_if_there(const fs::path& from, const std::string& name, const fs::path& to) {
  return fs::exists(from / name) ? copy_whole(from / name, to / name) : ok_status();
}

Status write_new(const LlamaConfig& config, const std::string& dtype, const fs::path& tokenizer,
                 const fs::path& folder) {
  EMOE_RETURN_IF_ERROR(write_synced(folder / "config.json", config.to_json(dtype)));
  nlohmann::ordered_json generation;
  generation["bos_token_id"] = config.bos_token_id;
  generation["eos_token_id"] = config.eos_token_ids.front();  // of a new model: the tokenizer's
  EMOE_RETURN_IF_ERROR(write_synced(folder / "generation_config.json", generation.dump(2) + "\n"));
  if (tokenizer.empty()) return ok_status();
  EMOE_RETURN_IF_ERROR(copy_whole(tokenizer, folder / "tokenizer.model"));
  for (const std::string& name : kTokenizerFiles) {
    EMOE_RETURN_IF_ERROR(copy_if_there(tokenizer.parent_path(), name, folder));
  }
  return ok_status();
}

}  // namespace

const std::vector<std::string>& side_file_names() {
  static const auto* names = [] {
    auto* all =
        new std::vector<std::string>{"config.json", "generation_config.json", "tokenizer.model"};
    all->insert(all->end(), kTokenizerFiles.begin(), kTokenizerFiles.end());
    return all;
  }();
  return *names;
}

Result<std::string> config_with_dtype(const std::string& config_json, const std::string& dtype) {
  auto config = nlohmann::ordered_json::parse(config_json, nullptr, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError("config.json is not a JSON object");
  const bool newer = config.contains("dtype");
  const bool older = config.contains("torch_dtype");
  if ((newer || older) && (!newer || config["dtype"] == dtype) &&
      (!older || config["torch_dtype"] == dtype)) {
    return config_json;  // right already: byte for byte
  }
  if (newer) config["dtype"] = dtype;
  if (older || !newer) config["torch_dtype"] = dtype;
  return config.dump(2) + "\n";
}

Status write_side_files(const BaseWeights& base, const std::string& dtype,
                        const fs::path& tokenizer, const fs::path& folder) {
  if (base.folder() == nullptr) return write_new(base.config(), dtype, tokenizer, folder);
  for (const std::string& name : side_file_names()) {
    if (name == "config.json") continue;
    EMOE_RETURN_IF_ERROR(copy_if_there(base.path(), name, folder));
  }
  EMOE_ASSIGN_OR_RETURN(const std::string config, read_file(base.path() / "config.json"));
  EMOE_ASSIGN_OR_RETURN(const std::string updated, config_with_dtype(config, dtype));
  return write_synced(folder / "config.json", updated);
}

}  // namespace emoe::worker
