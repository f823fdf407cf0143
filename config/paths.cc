#include "config/config.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {

void change_paths(v1::JobSpec& spec, const PathChange& change) {
  for (const FieldRule& rule : job_schema()) {
    if (!rule.path) continue;
    const FieldAt at = find_field(spec, rule.key);
    if (!at.present()) continue;
    // The message belongs to `spec`, which is ours to change.
    auto& message = const_cast<google::protobuf::Message&>(*at.message);
    const std::string path = message.GetReflection()->GetString(message, at.field);
    if (path.empty()) continue;
    message.GetReflection()->SetString(&message, at.field, change(rule.key, path));
  }
}

void make_paths_absolute(v1::JobSpec& spec, const std::filesystem::path& base) {
  change_paths(spec, [&](const std::string&, const std::string& path) {
    return (base / path).lexically_normal().string();
  });
}

}  // namespace emoe::config
