#include "worker/weights/side_files.h"

#include <nlohmann/json.hpp>

#include "base/file.h"

namespace emoe::worker {
namespace {

namespace fs = std::filesystem;

Status copy_whole(const fs::path& from, const fs::path& to) {
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(from));
  return write_file_atomically(to, text);
}

Status copy_if_there(const fs::path& from, const char* name, const fs::path& to) {
  return fs::exists(from / name) ? copy_whole(from / name, to / name) : ok_status();
}

// What may lie beside a tokenizer.model.
Status copy_tokenizer_files(const fs::path& from, const fs::path& to) {
  for (const char* name : {"tokenizer_config.json", "special_tokens_map.json", "tokenizer.json",
                           "added_tokens.json", "chat_template.jinja", "chat_template.json"}) {
    EMOE_RETURN_IF_ERROR(copy_if_there(from, name, to));
  }
  return ok_status();
}

Status write_new(const LlamaConfig& config, const std::string& dtype, const fs::path& tokenizer,
                 const fs::path& folder) {
  EMOE_RETURN_IF_ERROR(write_file_atomically(folder / "config.json", config.to_json(dtype)));
  nlohmann::ordered_json generation;
  generation["bos_token_id"] = config.bos_token_id;
  generation["eos_token_id"] = config.eos_token_ids.front();  // of a new model: the tokenizer's
  EMOE_RETURN_IF_ERROR(
      write_file_atomically(folder / "generation_config.json", generation.dump(2) + "\n"));
  if (tokenizer.empty()) return ok_status();
  EMOE_RETURN_IF_ERROR(copy_whole(tokenizer, folder / "tokenizer.model"));
  return copy_tokenizer_files(tokenizer.parent_path(), folder);
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

}  // namespace

Status write_side_files(const BaseWeights& base, const std::string& dtype,
                        const fs::path& tokenizer, const fs::path& folder) {
  if (base.folder() == nullptr) return write_new(base.config(), dtype, tokenizer, folder);
  EMOE_RETURN_IF_ERROR(copy_if_there(base.path(), "generation_config.json", folder));
  EMOE_RETURN_IF_ERROR(copy_if_there(base.path(), "tokenizer.model", folder));
  EMOE_RETURN_IF_ERROR(copy_tokenizer_files(base.path(), folder));
  EMOE_ASSIGN_OR_RETURN(const std::string config, read_file(base.path() / "config.json"));
  EMOE_ASSIGN_OR_RETURN(const std::string updated, config_with_dtype(config, dtype));
  return write_file_atomically(folder / "config.json", updated);
}

}  // namespace emoe::worker
