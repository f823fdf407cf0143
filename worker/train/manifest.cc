#include "worker/train/manifest.h"

#include <set>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/attempt_contract.h"
#include "base/file.h"
#include "base/sha256.h"

namespace emoe::worker {
namespace {

constexpr int kVersion = 1;

Status damaged(const std::string& file, const std::string& what) {
  return absl::DataLossError(absl::StrCat(file, ": ", what));
}

// One file against its entry.
Status verify_file(const std::filesystem::path& folder, const nlohmann::json& entry, Depth depth,
                   const std::function<void()>& on_work_done) {
  const auto name = entry.at("name").get<std::string>();
  if (name.find('/') != std::string::npos) return damaged(name, "not a file of this folder");
  std::error_code error;
  const auto size = std::filesystem::file_size(folder / name, error);
  if (error == std::errc::no_such_file_or_directory) return damaged(name, "missing");
  if (error) return errno_status(error.value(), (folder / name).string());
  const auto expected = entry.at("bytes").get<uint64_t>();
  if (size != expected) {
    return damaged(name, absl::StrCat("has ", size, " bytes, its manifest says ", expected));
  }
  if (depth == Depth::sizes) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(folder / name, on_work_done));
  if (hash != entry.at("sha256").get<std::string>()) {
    return damaged(name, "its SHA-256 is not the one of the manifest");
  }
  return ok_status();
}

Result<int64_t> verify(const std::filesystem::path& folder, const nlohmann::json& json,
                       const std::vector<std::string>& names, Depth depth,
                       const std::function<void()>& on_work_done) {
  if (json.at("version").get<int>() != kVersion) {
    return damaged(kCheckpointManifestFile, "of another version");
  }
  std::set<std::string> missing(names.begin(), names.end());
  for (const auto& entry : json.at("files")) {
    EMOE_RETURN_IF_ERROR(verify_file(folder, entry, depth, on_work_done));
    missing.erase(entry.at("name").get<std::string>());
  }
  if (!missing.empty())
    return damaged(kCheckpointManifestFile, "does not name " + *missing.begin());
  return json.at("step").get<int64_t>();
}

}  // namespace

Status write_manifest(const std::filesystem::path& folder, int64_t step,
                      const std::vector<std::string>& names,
                      const std::function<void()>& on_work_done) {
  nlohmann::ordered_json files = nlohmann::ordered_json::array();
  for (const std::string& name : names) {
    std::error_code error;
    const auto size = std::filesystem::file_size(folder / name, error);
    if (error) return errno_status(error.value(), folder / name);
    EMOE_ASSIGN_OR_RETURN(const std::string hash, sha256_of_file(folder / name, on_work_done));
    files.push_back({{"name", name}, {"bytes", size}, {"sha256", hash}});
  }
  const nlohmann::ordered_json manifest = {{"version", kVersion}, {"step", step}, {"files", files}};
  return write_file_atomically(folder / kCheckpointManifestFile, manifest.dump(1) + "\n");
}

Result<int64_t> verify_manifest(const std::filesystem::path& folder,
                                const std::vector<std::string>& names, Depth depth,
                                const std::function<void()>& on_work_done) {
  const Result<std::string> text = read_file(folder / kCheckpointManifestFile);
  if (absl::IsNotFound(text.status())) return damaged(kCheckpointManifestFile, "missing");
  if (!text.ok()) return text.status();
  try {
    return verify(folder, nlohmann::json::parse(*text), names, depth, on_work_done);
  } catch (const nlohmann::json::exception& error) {
    return damaged(kCheckpointManifestFile, error.what());
  }
}

}  // namespace emoe::worker
