#pragma once

#include <filesystem>
#include <string>

#include <nlohmann/json.hpp>

#include "base/status.h"

namespace emoe::launcher {

// What an administrator wants of the pods of an attempt beside what it needs anyway: a YAML file with up
// to three pod templates.
//
//   pods:      of all pods
//   launcher:  of the pod in which mpirun runs, its container is called "mpirun"
//   worker:    of those in which the ranks run, their container is called "ranks"
//
// Each has metadata (labels, annotations) and spec, as in a Deployment's template. In `pods` a
// container of one of the two names is for the pods that have it; all others are for all pods.
class PodTemplate {
 public:
  static constexpr const char* kLauncherContainer = "mpirun";
  static constexpr const char* kWorkerContainer = "ranks";

  PodTemplate() = default;  // nothing
  // INVALID_ARGUMENT with the file's name and what is wrong in it; the file's errors.
  [[nodiscard]] static Result<PodTemplate> read(const std::filesystem::path& file);

  // `ours` is a pod template whose first container is `container`. What the administrator says wins:
  // maps are merged, lists whose entries have names (containers, volumes, env, mounts, ports) by
  // those names, other lists are replaced.
  [[nodiscard]] nlohmann::json applied_to(nlohmann::json ours, const std::string& container) const;

 private:
  nlohmann::json pods_;
  nlohmann::json launcher_;
  nlohmann::json worker_;
};

}  // namespace emoe::launcher
