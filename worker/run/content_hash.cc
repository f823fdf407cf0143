#include "worker/run/content_hash.h"

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/log.h"
#include "base/sha256.h"
#include "format/partition_file.h"
#include "format/peft_config.h"
#include "format/tokenizer.h"
#include "format/tokenizer_file.h"

namespace emoe::worker {
namespace {

constexpr size_t kDigits = 64;

Result<struct stat> stamp_of(const std::filesystem::path& file) {
  struct stat info {};
  if (::stat(file.c_str(), &info) == 0) return info;
  const int error = errno;
  EMOE_RETURN_IF_ERROR(FileReader::open(file).status());  // says more of a link to nothing
  return errno_status(error, absl::StrCat("cannot read ", file.string()));
}

// Changes whenever the file may have changed.
std::string text_of(const struct stat& stamp) {
  return absl::StrCat(stamp.st_size, " ", stamp.st_mtim.tv_sec, ".", stamp.st_mtim.tv_nsec, " ",
                      stamp.st_ctim.tv_sec, ".", stamp.st_ctim.tv_nsec, " ", stamp.st_ino, " ",
                      stamp.st_dev, "\n");
}

// As long as a run lasts, others may link or chmod a file: its ctime does not count.
bool same_content(const struct stat& a, const struct stat& b) {
  return a.st_size == b.st_size && a.st_mtim.tv_sec == b.st_mtim.tv_sec &&
         a.st_mtim.tv_nsec == b.st_mtim.tv_nsec && a.st_ino == b.st_ino && a.st_dev == b.st_dev;
}

// By name and content.
Result<std::string> hash_together(const std::vector<std::filesystem::path>& files,
                                  ContentHasher& hasher) {
  Sha256 hash;
  for (const auto& file : files) {
    EMOE_ASSIGN_OR_RETURN(const std::string digest, hasher.file(file));
    hash.update(absl::StrCat(file.filename().string(), " ", digest, "\n"));
  }
  return hash.hex_digest();
}

// In the order in which the job names the adapters.
std::vector<std::filesystem::path> adapter_files(const JobPlan& plan) {
  std::vector<std::filesystem::path> folders;
  if (!plan.adapter.empty()) folders.push_back(plan.adapter);
  if (plan.merge() != nullptr) {
    for (const auto& part : plan.merge()->parts) folders.push_back(part.adapter);
  }
  std::vector<std::filesystem::path> files;
  for (const auto& folder : folders) {
    files.insert(files.end(), {folder / kPeftConfigFile, folder / kPeftTensorFile});
  }
  return files;
}

Result<std::string> hash_data(const DatasetOptions& options, ContentHasher& hasher) {
  std::vector<std::string> digests;
  for (const std::filesystem::path& file : options.paths()) {
    EMOE_ASSIGN_OR_RETURN(std::string digest, hasher.file(file));
    digests.push_back(std::move(digest));
  }
  return data_digest(options.paths(), digests);
}

}  // namespace

std::filesystem::path ContentHasher::entry_of(const std::filesystem::path& file) const {
  return cache_dir_ / "hashes" / sha256_hex(std::filesystem::absolute(file).string());
}

// Empty: not known, or known of another state of the file.
std::string ContentHasher::read_cache(const std::filesystem::path& file,
                                      const struct stat& stamp) const {
  if (cache_dir_.empty()) return "";
  const auto entry = read_file(entry_of(file));
  const std::string expected = text_of(stamp);
  if (!entry.ok() || entry->size() != expected.size() + kDigits || !entry->starts_with(expected)) {
    return "";
  }
  return entry->substr(expected.size());
}

Result<std::string> ContentHasher::file(const std::filesystem::path& file) {
  EMOE_ASSIGN_OR_RETURN(const struct stat stamp, stamp_of(file));
  if (const auto found = known_.find(file);
      found != known_.end() && text_of(found->second.stamp) == text_of(stamp)) {
    return found->second.hash;
  }
  Known known{.stamp = stamp, .hash = read_cache(file, stamp)};
  known.in_cache = !known.hash.empty();
  if (!known.in_cache) {
    EMOE_ASSIGN_OR_RETURN(known.hash, sha256_of_file(file, on_work_done_));
  }
  return (known_[file] = std::move(known)).hash;
}

Result<std::string> ContentHasher::model(const std::filesystem::path& folder) {
  std::vector<std::filesystem::path> files;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    const auto& path = entry.path();
    if (path.extension() == ".safetensors" || path.filename() == "config.json")
      files.push_back(path);
  }
  if (error) return errno_status(error.value(), absl::StrCat("cannot read ", folder.string()));
  std::sort(files.begin(), files.end());
  EMOE_ASSIGN_OR_RETURN(std::string hash, hash_together(files, *this));
  for (const auto& file : files) model_files_.emplace(file, known_.at(file).stamp);
  return hash;
}

void ContentHasher::remember() {
  if (cache_dir_.empty()) return;
  Status status = emoe::create_directories(cache_dir_ / "hashes");
  for (auto& [file, known] : known_) {
    if (known.in_cache || !status.ok()) continue;
    status = write_file_atomically(entry_of(file), text_of(known.stamp) + known.hash);
    known.in_cache = status.ok();
  }
  if (!status.ok())
    log_warning("hashes of files are not remembered: %s", std::string(status.message()));
}

Status ContentHasher::check_model_unchanged() const {
  for (const auto& [file, before] : model_files_) {
    const auto now = stamp_of(file);
    if (!now.ok() || !same_content(*now, before)) {
      return absl::AbortedError(
          absl::StrCat("the base changed during the run: ", file.string(),
                       now.ok() ? " is not the file that was read at its start" : " is gone"));
    }
  }
  return ok_status();
}

Result<ContentHashes> hash_inputs(const JobPlan& plan, ContentHasher& hasher) {
  ContentHashes hashes;
  if (!plan.model.path.empty()) {
    EMOE_ASSIGN_OR_RETURN(hashes.model, hasher.model(plan.model.path));
  }
  if (!plan.model.tokenizer.empty()) {
    EMOE_ASSIGN_OR_RETURN(const auto tokenizer, tokenizer_file(plan.model.tokenizer));
    EMOE_ASSIGN_OR_RETURN(hashes.tokenizer, hasher.file(tokenizer));
  }
  if (plan.train() != nullptr) {
    EMOE_ASSIGN_OR_RETURN(hashes.train, hash_data(plan.train()->data, hasher));
  }
  if (plan.eval_data) {
    EMOE_ASSIGN_OR_RETURN(hashes.eval, hash_data(*plan.eval_data, hasher));
  }
  if (const auto files = adapter_files(plan); !files.empty()) {
    EMOE_ASSIGN_OR_RETURN(hashes.adapter, hash_together(files, hasher));
  }
  if (plan.suite) {
    EMOE_ASSIGN_OR_RETURN(const auto files, data::suite_files(plan.suite->files));
    EMOE_ASSIGN_OR_RETURN(hashes.suite, hash_together(files, hasher));
  }
  if (plan.emoe.routing.num_experts > 0 && plan.emoe.partition.method == "file") {
    std::vector<std::filesystem::path> files;
    for (const int64_t layer : plan.emoe.layers)
      files.push_back(partition_file(plan.emoe.partition.folder, layer));
    EMOE_ASSIGN_OR_RETURN(hashes.partition, hash_together(files, hasher));
  }
  if (plan.convert() != nullptr && plan.convert()->restores) {
    EMOE_ASSIGN_OR_RETURN(const auto order, read_neuron_order(plan.model.path, plan.model.config));
    std::vector<std::filesystem::path> files;
    for (const auto& [layer, partition] : order) {
      files.push_back(partition_file(plan.model.path / kNeuronOrderFolder, layer));
    }
    EMOE_ASSIGN_OR_RETURN(hashes.partition, hash_together(files, hasher));
  }
  return hashes;
}

}  // namespace emoe::worker
