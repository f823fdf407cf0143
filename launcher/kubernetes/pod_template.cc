#include "launcher/kubernetes/pod_template.h"

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <yaml-cpp/yaml.h>

#include "base/file.h"

namespace emoe::launcher {
namespace {

using nlohmann::json;

constexpr size_t kMostBytesOfTemplate = 4 << 20;
constexpr int kDeepest = 64;

// What names an entry of a list of objects; whether an entry of the same name is merged or replaced.
struct NamedList {
  std::string_view list;
  const char* name;
  bool merged;
};
constexpr std::array kNamedLists{
    NamedList{"containers", "name", true},        NamedList{"initContainers", "name", true},
    NamedList{"volumes", "name", false},          NamedList{"env", "name", false},
    NamedList{"imagePullSecrets", "name", false}, NamedList{"volumeMounts", "mountPath", false},
    NamedList{"ports", "containerPort", false},
};
// What makes the pods an attempt; the launcher's own.
constexpr std::array kNotTheirs{"command", "args"};

json scalar_of(const YAML::Node& node) {
  const std::string& text = node.Scalar();
  if (node.Tag() == "!") return text;  // quoted
  if (text.empty() || text == "~" || text == "null") return nullptr;
  if (text == "true") return true;
  if (text == "false") return false;
  int64_t whole = 0;
  if (absl::SimpleAtoi(text, &whole)) return whole;
  double number = 0;
  const bool numeric = text.find_first_not_of("0123456789.eE+-") == std::string::npos;
  if (numeric && absl::SimpleAtod(text, &number)) return number;
  return text;
}

Result<json> json_of(const YAML::Node& node, int depth = 0) {
  if (depth > kDeepest) return absl::InvalidArgumentError("nested too deeply");
  if (node.IsMap()) {
    json object = json::object();
    for (const auto& entry : node) {
      if (!entry.first.IsScalar()) return absl::InvalidArgumentError("a key that is no text");
      const std::string& key = entry.first.Scalar();
      if (object.contains(key)) {
        return absl::InvalidArgumentError(absl::StrCat("the key ", key, " stands twice"));
      }
      EMOE_ASSIGN_OR_RETURN(object[key], json_of(entry.second, depth + 1));
    }
    return object;
  }
  if (node.IsSequence()) {
    json list = json::array();
    for (const YAML::Node& value : node) {
      EMOE_ASSIGN_OR_RETURN(json one, json_of(value, depth + 1));
      list.push_back(std::move(one));
    }
    return list;
  }
  return node.IsScalar() ? scalar_of(node) : json(nullptr);
}

json merge(json ours, const json& theirs, std::string_view key);

json merge_named(json ours, const json& theirs, const NamedList& kind) {
  for (const json& entry : theirs) {
    const auto same = std::ranges::find_if(ours, [&](const json& one) {
      return entry.is_object() && entry.contains(kind.name) && one.contains(kind.name) &&
             one[kind.name] == entry[kind.name];
    });
    if (same == ours.end()) {
      ours.push_back(entry);
    } else {
      *same = kind.merged ? merge(*same, entry, "") : entry;
    }
  }
  return ours;
}

json merge(json ours, const json& theirs, std::string_view key) {
  if (ours.is_object() && theirs.is_object()) {
    for (const auto& [name, value] : theirs.items()) {
      ours[name] = ours.contains(name) ? merge(ours[name], value, name) : value;
    }
    return ours;
  }
  if (ours.is_array() && theirs.is_array()) {
    for (const NamedList& kind : kNamedLists) {
      if (kind.list == key) return merge_named(std::move(ours), theirs, kind);
    }
  }
  return theirs;
}

// The template for all pods as it is for those that have the container `own`.
json without_container(json pods, const std::string& own) {
  if (!pods.is_object() || !pods.contains("spec") || !pods["spec"].contains("containers")) {
    return pods;
  }
  json kept = json::array();
  for (const json& container : pods["spec"]["containers"]) {
    const std::string name = container.value("name", "");
    const bool of_ours =
        name == PodTemplate::kLauncherContainer || name == PodTemplate::kWorkerContainer;
    if (!of_ours || name == own) kept.push_back(container);
  }
  pods["spec"]["containers"] = kept;
  return pods;
}

Status check_containers(const json& spec, const std::string& where) {
  for (const char* list : {"containers", "initContainers"}) {
    if (!spec.contains(list)) continue;
    if (!spec[list].is_array()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".spec.", list, " is no list"));
    }
    for (const json& container : spec[list]) {
      const bool named =
          container.is_object() && container.contains("name") && container["name"].is_string();
      if (!named) {
        return absl::InvalidArgumentError(
            absl::StrCat(where, ".spec.", list, ": a container without a name"));
      }
      const std::string name = container["name"];
      for (const char* key : kNotTheirs) {
        const bool ours =
            name == PodTemplate::kLauncherContainer || name == PodTemplate::kWorkerContainer;
        if (ours && container.contains(key)) {
          return absl::InvalidArgumentError(
              absl::StrCat(where, ": ", key, " of the container ", name,
                           " is the attempt's own and cannot be set"));
        }
      }
    }
  }
  return ok_status();
}

Status check_section(const json& section, const std::string& where) {
  if (!section.is_object()) return absl::InvalidArgumentError(where + " is no mapping");
  for (const auto& [key, value] : section.items()) {
    if (key != "metadata" && key != "spec") {
      return absl::InvalidArgumentError(
          absl::StrCat(where, ".", key, ": unknown key; a pod template has metadata and spec"));
    }
    if (!value.is_object()) {
      return absl::InvalidArgumentError(absl::StrCat(where, ".", key, " is no mapping"));
    }
  }
  return section.contains("spec") ? check_containers(section["spec"], where) : ok_status();
}

}  // namespace

Result<PodTemplate> PodTemplate::read(const std::filesystem::path& file) {
  const std::string context = absl::StrCat("launcher.kubernetes.template: ", file.string());
  const auto text = read_file(file, kMostBytesOfTemplate);
  if (!text.ok()) return with_context(text.status(), "launcher.kubernetes.template");
  PodTemplate result;
  try {
    const auto parsed = json_of(YAML::Load(*text));
    if (!parsed.ok()) return with_context(parsed.status(), context);
    if (!parsed->is_object()) {
      return absl::InvalidArgumentError(context + ": no mapping with pods, launcher or worker");
    }
    const std::array<std::pair<const char*, json PodTemplate::*>, 3> sections{
        {{"pods", &PodTemplate::pods_},
         {"launcher", &PodTemplate::launcher_},
         {"worker", &PodTemplate::worker_}}};
    for (const auto& [key, value] : parsed->items()) {
      const auto known = std::ranges::find_if(
          sections, [&key = key](const auto& section) { return key == section.first; });
      if (known == sections.end()) {
        return absl::InvalidArgumentError(
            absl::StrCat(context, ": ", key, ": unknown key; use pods, launcher, worker"));
      }
      if (const Status status = check_section(value, key); !status.ok()) {
        return with_context(status, context);
      }
      result.*(known->second) = value;
    }
  } catch (const YAML::Exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(context, ": ", error.what()));
  }
  return result;
}

json PodTemplate::applied_to(json ours, const std::string& container) const {
  if (!pods_.is_null()) ours = merge(std::move(ours), without_container(pods_, container), "");
  const json& own = container == kLauncherContainer ? launcher_ : worker_;
  return own.is_null() ? ours : merge(std::move(ours), own, "");
}

}  // namespace emoe::launcher
