#include "worker/run/output_folder.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <unistd.h>

#include "base/file.h"
#include "worker/run/exit_code.h"

namespace emoe::worker {
namespace {

// Empty, or with nothing in it but the cache: another rank of this launch may have been quicker.
bool is_unclaimed(const OutputFolder& out) {
  std::error_code error;
  std::filesystem::directory_iterator entries(out.root, error);
  if (error) {
    throw JobError(ExitCode::io, absl::StrCat("--out ", out.root.string(),
                                              ": cannot be read: ", error.message()));
  }
  return std::all_of(begin(entries), end(entries),
                     [&](const auto& entry) { return entry.path() == out.cache(); });
}

void check_existing(const OutputFolder& out, const JobPlan& plan) {
  const std::string name = absl::StrCat("--out ", out.root.string());
  if (!std::filesystem::is_directory(out.root)) {
    throw JobError(ExitCode::configuration, name + ": exists and is not a folder");
  }
  if (!std::filesystem::exists(out.job_yaml())) {
    if (is_unclaimed(out)) return;
    throw JobError(
        ExitCode::configuration,
        name + ": exists and is not the output folder of a run; name another one, or empty it");
  }
  if (identity_of(out.job_yaml()) != plan.identity) {
    throw JobError(ExitCode::configuration, name +
                                                ": belongs to another job (its job.yaml differs); "
                                                "name another folder, or remove this one");
  }
}

}  // namespace

void claim_output_folder(const OutputFolder& out, const JobPlan& plan) {
  std::error_code error;
  if (std::filesystem::exists(out.root, error)) check_existing(out, plan);
  output_or_throw(emoe::create_directories(out.root));
  if (::access(out.root.c_str(), W_OK) != 0) {
    throw JobError(ExitCode::io,
                   absl::StrCat("--out ", out.root.string(), ": cannot be written to"));
  }
  // Claimed from here on; the hashes follow when the files have been read.
  if (!std::filesystem::exists(out.job_yaml())) write_job_yaml(out, plan, {});
}

void write_job_yaml(const OutputFolder& out, const JobPlan& plan, const ContentHashes& hashes) {
  output_or_throw(write_file_atomically(out.job_yaml(), yaml_with_hashes(plan, hashes)));
}

}  // namespace emoe::worker
