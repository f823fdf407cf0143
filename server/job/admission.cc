#include "server/job/admission.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "base/file.h"
#include "config/config.h"
#include "config/data_check.h"
#include "server/job/errors.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

bool is_below(const fs::path& path, const fs::path& root) {
  const auto [root_end, path_end] =
      std::mismatch(root.begin(), root.end(), path.begin(), path.end());
  return root_end == root.end() || (root_end->empty() && std::next(root_end) == root.end());
}

bool is_allowed(const fs::path& path, const std::vector<fs::path>& roots) {
  if (roots.empty()) return true;
  std::error_code error;
  const fs::path real = fs::weakly_canonical(path, error);
  if (error) return false;
  return std::any_of(roots.begin(), roots.end(), [&](const fs::path& root) {
    std::error_code ignored;
    const fs::path real_root = fs::weakly_canonical(root, ignored);
    return is_below(real, real_root.has_filename() ? real_root : real_root.parent_path());
  });
}

// True when the path can be used; else says why not.
bool check_path(const std::string& key, const fs::path& path, const AdmissionConfig& config,
                Diagnostics& diagnostics) {
  const auto refuse = [&](const std::string& reason) {
    diagnostics.add(key, reason);
    return false;
  };
  if (!path.is_absolute()) {
    return refuse(absl::StrCat("'", path.string(),
                               "' must be an absolute path on the coordinator's file system"));
  }
  if (!is_allowed(path, config.allowed_roots)) {
    const std::string roots = absl::StrJoin(
        config.allowed_roots, ", ",
        [](std::string* out, const fs::path& root) { absl::StrAppend(out, root.string()); });
    return refuse(absl::StrCat("'", path.string(), "' lies outside the allowed folders: ", roots));
  }
  if (::access(path.c_str(), R_OK) != 0) {
    return refuse(absl::StrCat("cannot read '", path.string(), "': ", std::strerror(errno)));
  }
  return true;
}

// The three numbers of config.json that the spec's rules need. Whether the model as a whole can be
// read, the worker decides.
void check_model(const fs::path& folder, const v1::JobSpec& resolved, Diagnostics& diagnostics) {
  const fs::path file = folder / "config.json";
  const auto text = read_file(file);
  if (!text.ok()) {
    diagnostics.add("model.path",
                    absl::StrCat("is no model folder: ", std::string(text.status().message())));
    return;
  }
  const auto json = nlohmann::json::parse(*text, nullptr, false);
  if (!json.is_object()) {
    diagnostics.add("model.path", file.string() + " is no JSON object");
    return;
  }
  config::ModelShape shape;
  bool complete = true;
  const auto take = [&](const char* key, int64_t& value) {
    const auto found = json.find(key);
    if (found != json.end() && found->is_number_integer() && found->get<int64_t>() > 0) {
      value = found->get<int64_t>();
      return;
    }
    complete = false;
    diagnostics.add("model.path",
                    absl::StrCat(file.string(), ": \"", key, "\" must be a positive integer"));
  };
  take("num_hidden_layers", shape.num_hidden_layers);
  take("intermediate_size", shape.intermediate_size);
  take("max_position_embeddings", shape.max_position_embeddings);
  if (complete) config::validate_against_model(resolved, shape, {}, diagnostics);
}

void check_initial_model(const v1::ModelInit& init, const v1::JobSpec& resolved,
                         Diagnostics& diagnostics) {
  const config::ModelShape shape{init.num_hidden_layers(), init.intermediate_size(),
                                 init.max_position_embeddings()};
  if (shape.num_hidden_layers > 0 && shape.intermediate_size > 0) {
    config::validate_against_model(resolved, shape, {}, diagnostics);
  }
}

}  // namespace

Result<v1::JobSpec> admit(const v1::JobSpec& spec, const AdmissionConfig& config) {
  const v1::JobSpec resolved = config::resolve(spec);
  Diagnostics diagnostics;
  config::validate(resolved, {}, diagnostics);
  config::reject_unsupported(resolved, {}, diagnostics);

  std::map<std::string, bool> usable;
  for (const auto& [key, path] : config::named_paths(resolved)) {
    usable[key] = check_path(key, path, config, diagnostics);
  }
  if (usable["model.path"]) {
    check_model(resolved.model().path(), resolved, diagnostics);
  } else if (resolved.model().has_init()) {
    check_initial_model(resolved.model().init(), resolved, diagnostics);
  }
  const v1::Data& data = resolved.data();
  if (usable["data.train"]) {
    config::check_data_file(data.train(), data.format(), "data.train", diagnostics);
  }
  if (usable["data.eval"] && data.eval() != data.train()) {
    config::check_data_file(data.eval(), data.format(), "data.eval", diagnostics);
  }
  EMOE_RETURN_IF_ERROR(with_reason(diagnostics.to_status(), "INVALID_SPEC"));
  return resolved;
}

}  // namespace emoe::server
