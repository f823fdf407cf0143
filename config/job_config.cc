#include <yaml-cpp/yaml.h>

#include "base/file.h"
#include "config/config.h"
#include "config/overrides.h"
#include "config/reader.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {
namespace {

// Some defaults depend on other keys. They are asked for in schema order, so what they look at is
// already resolved.
std::string default_of(const v1::JobSpec& spec, const FieldRule& rule) {
  if (!is_used(rule, spec)) return "";
  const std::string& key = rule.key;
  const bool is_lora = spec.tuning() == "lora";
  if (key == "lora") return is_lora ? "{}" : "";
  if (key == "emoe.layers.every") return spec.emoe().layers().has_start() ? "2" : "";
  if (key == "optimizer.learning_rate") return is_lora ? "2.0e-4" : "2.0e-5";
  // A wrong word is reported once, where it was written.
  if (key == "export.dtype") return spec.model().dtype() == "float32" ? "float32" : "bfloat16";
  if (key == "export.adapter") return is_lora ? "true" : "false";
  return rule.fallback;
}

}  // namespace

LoadedJob parse_job(const std::string& yaml, const std::string& source_name,
                    const std::vector<std::string>& overrides, Diagnostics& diagnostics) {
  LoadedJob job;
  job.locations[""] = source_name;
  const YAML::Node root = parse_yaml(yaml, source_name, diagnostics);
  if (root.IsDefined()) {
    Reader({.name = source_name}, job.locations, diagnostics).read_message(root, "", job.spec);
  }
  apply_overrides(overrides, job.locations, diagnostics, job.spec);
  // An empty list cannot be told from an absent one later, and would become the default.
  if (job.locations.count("lora.targets") > 0 && job.spec.lora().targets_size() == 0) {
    KeyReporter(job.locations, diagnostics)(
        "lora.targets", "must name at least one linear; use tuning: full to train without LoRA");
  }
  return job;
}

Result<LoadedJob> load_job(const std::filesystem::path& file,
                           const std::vector<std::string>& overrides, Diagnostics& diagnostics) {
  EMOE_ASSIGN_OR_RETURN(const std::string yaml, read_file(file));
  return parse_job(yaml, file.string(), overrides, diagnostics);
}

v1::JobSpec resolve(const v1::JobSpec& spec) {
  v1::JobSpec resolved = spec;
  fill_defaults(
      job_schema(), [&](const FieldRule& rule) { return default_of(resolved, rule); }, resolved);
  return resolved;
}

}  // namespace emoe::config
