#include "config/config.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {
namespace {

template <typename Visit>
void for_each_path(const v1::JobSpec& spec, Visit visit) {
  for (const FieldRule& rule : job_schema()) {
    if (!rule.path) continue;
    const FieldAt at = find_field(spec, rule.key);
    if (!at.present()) continue;
    const std::string path = at.message->GetReflection()->GetString(*at.message, at.field);
    if (!path.empty()) visit(rule.key, at, path);
  }
}

}  // namespace

void make_paths_absolute(v1::JobSpec& spec, const std::filesystem::path& base) {
  for_each_path(spec, [&](const std::string&, const FieldAt& at, const std::string& path) {
    // The message belongs to `spec`, which is ours to change.
    auto& message = const_cast<google::protobuf::Message&>(*at.message);
    message.GetReflection()->SetString(&message, at.field, (base / path).lexically_normal());
  });
}

std::vector<std::pair<std::string, std::string>> named_paths(const v1::JobSpec& spec) {
  std::vector<std::pair<std::string, std::string>> paths;
  for_each_path(spec, [&](const std::string& key, const FieldAt&, const std::string& path) {
    paths.emplace_back(key, path);
  });
  return paths;
}

}  // namespace emoe::config
