#include "config/config.h"

#include <set>

#include <absl/strings/str_cat.h>
#include <yaml-cpp/yaml.h>

#include "base/input_file.h"
#include "config/reader.h"
#include "config/schema.h"
#include "config/validation.h"
#include "format/tensor_table.h"

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
  if (key == "export.adapter") return is_lora ? "true" : "false";
  return rule.fallback;
}

// Reads a YAML text and overrides into an empty message, as load_job() does for jobs.
KeyLocations read_into(const std::string& yaml, const std::string& source_name,
                       const std::vector<std::string>& overrides, Diagnostics& diagnostics,
                       google::protobuf::Message& message) {
  KeyLocations locations{{"", source_name}};
  const YAML::Node root = parse_yaml(yaml, source_name, diagnostics);
  if (root.IsDefined()) {
    Reader({.name = source_name}, locations, diagnostics).read_message(root, "", message);
  }
  apply_overrides(overrides, locations, diagnostics, message);
  return locations;
}

void change_list(const std::string& key, const google::protobuf::FieldDescriptor& field,
                 const PathChange& change, google::protobuf::Message& message) {
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  for (int i = 0; i < reflection.FieldSize(message, &field); ++i) {
    const auto path = std::get<std::string>(value_of(message, field, i));
    if (path.empty()) continue;
    reflection.SetRepeatedString(&message, &field, i, change(absl::StrCat(key, "[", i, "]"), path));
  }
}

// A file that is something else is a wrong configuration, not bad data.
Result<std::string> read_configuration(const std::filesystem::path& file) {
  Result<std::string> yaml = read_input(file, InputKind::text);
  if (!absl::IsDataLoss(yaml.status())) return yaml;
  return absl::InvalidArgumentError(std::string(yaml.status().message()));
}

}  // namespace

LoadedJob parse_job(const std::string& yaml, const std::string& source_name,
                    const std::vector<std::string>& overrides, Diagnostics& diagnostics) {
  LoadedJob job;
  job.locations = read_into(yaml, source_name, overrides, diagnostics, job.spec);
  if (job.locations.count("data.train") > 0 && !job.spec.data().has_train() &&
      job.spec.data().train_files_size() == 0) {
    KeyReporter(job.locations, diagnostics)("data.train", "must name at least one file");
  }
  // An empty list cannot be told from an absent one later, and would become the default.
  if (job.locations.count("lora.targets") > 0 && job.spec.lora().targets_size() == 0) {
    KeyReporter(job.locations, diagnostics)(
        "lora.targets", "must name at least one linear; use tuning: full to train without LoRA");
  }
  return job;
}

Result<LoadedJob> load_job(const std::filesystem::path& file,
                           const std::vector<std::string>& overrides, Diagnostics& diagnostics) {
  EMOE_ASSIGN_OR_RETURN(const std::string yaml, read_configuration(file));
  return parse_job(yaml, file.string(), overrides, diagnostics);
}

v1::JobSpec resolve(const v1::JobSpec& spec) {
  v1::JobSpec resolved = spec;
  fill_defaults(
      job_schema(), [&](const FieldRule& rule) { return default_of(resolved, rule); }, resolved);
  if (resolved.lora().targets_size() == 1 && resolved.lora().targets(0) == kAllLinear) {
    const std::vector<std::string>& linears = linear_names();
    resolved.mutable_lora()->mutable_targets()->Assign(linears.begin(), linears.end());
  }
  return resolved;
}

Result<v1::CoordinatorConfig> parse_coordinator_config(const std::string& yaml,
                                                       const std::string& source_name,
                                                       const std::vector<std::string>& overrides) {
  v1::CoordinatorConfig config;
  Diagnostics diagnostics;
  const KeyLocations locations = read_into(yaml, source_name, overrides, diagnostics, config);
  // A list that was written down empty is meant so.
  fill_defaults(
      coordinator_schema(),
      [&](const FieldRule& rule) { return locations.contains(rule.key) ? "" : rule.fallback; },
      config);
  check_rows(coordinator_schema(), config, locations, diagnostics);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  return config;
}

Result<v1::CoordinatorConfig> load_coordinator_config(const std::filesystem::path& file,
                                                      const std::vector<std::string>& overrides) {
  EMOE_ASSIGN_OR_RETURN(const std::string yaml, read_configuration(file));
  return parse_coordinator_config(yaml, file.string(), overrides);
}

Result<v1::TokenFile> parse_token_file(const std::string& yaml, const std::string& source_name) {
  v1::TokenFile file;
  Diagnostics diagnostics;
  const KeyLocations locations = read_into(yaml, source_name, {}, diagnostics, file);
  check_rows(token_schema(), file, locations, diagnostics);
  const KeyReporter report(locations, diagnostics);
  std::set<std::string> names;
  std::set<std::string> digests;
  for (int i = 0; i < file.tokens_size(); ++i) {
    const v1::Token& token = file.tokens(i);
    const auto key = [i](const char* field) { return absl::StrCat("tokens[", i, "].", field); };
    const std::string& digest = token.sha256();
    if (token.has_sha256() && (digest.size() != 64 ||
                               digest.find_first_not_of("0123456789abcdef") != std::string::npos)) {
      report(key("sha256"),
             "is no SHA-256 in 64 lower-case hexadecimal digits; make one with: "
             "printf %s \"$TOKEN\" | sha256sum");
    } else if (token.has_sha256() && !digests.insert(digest).second) {
      report(key("sha256"), "is given twice");
    }
    if (token.has_name() && !names.insert(token.name()).second) {
      report(key("name"), absl::StrCat("\"", token.name(), "\" is given twice"));
    }
    if (token.role() != "admin" && token.project().empty()) {
      report(key("project"), "is required: only an admin may be of none");
    }
  }
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  return file;
}

void change_paths(v1::JobSpec& spec, const PathChange& change) {
  for (const FieldRule& rule : job_schema()) {
    if (!rule.path) continue;
    const FieldAt at = find_field(spec, rule.key);
    if (!at.present()) continue;
    // The message belongs to `spec`, which is ours to change.
    auto& message = const_cast<google::protobuf::Message&>(*at.message);
    if (at.field->is_repeated()) {
      change_list(rule.key, *at.field, change, message);
      continue;
    }
    const auto path = std::get<std::string>(value_of(message, *at.field));
    if (!path.empty()) put_value(*at.field, change(rule.key, path), message);
  }
  for (int i = 0; i < spec.data().train_files_size(); ++i) {
    v1::DataFile& file = *spec.mutable_data()->mutable_train_files(i);
    const std::string key = absl::StrCat("data.train[", i, "]");
    if (!file.path().empty()) file.set_path(change(key, file.path()));
  }
}

void make_paths_absolute(v1::JobSpec& spec, const std::filesystem::path& base) {
  change_paths(spec, [&](const std::string&, const std::string& path) {
    return absolute_path(path, base).string();
  });
}

}  // namespace emoe::config
