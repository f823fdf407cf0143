#include "format/adapter_modules.h"

#include <algorithm>
#include <optional>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/diagnostics.h"
#include "format/tensor_table.h"
#include "format/text_pattern.h"

namespace emoe {
namespace {

bool fits(const TextPattern& pattern, const std::string& text) {
  bool found = false;
  pattern.for_matches(text, [&](size_t, size_t) { found = true; });
  return found;
}

// Python's re.fullmatch(expression, …), with something before and behind it.
Result<TextPattern> whole(const std::string& before, const std::string& expression,
                          const std::string& behind) {
  EMOE_RETURN_IF_ERROR(TextPattern::regex(expression).status());
  return TextPattern::regex(absl::StrCat("\\A", before, "(?:", expression, ")", behind, "\\z"));
}

struct Module {
  std::string path;
  int64_t layer = 0;
};

bool is_target(const std::string& path, const std::string& target) {
  return path == target || path.ends_with("." + target);
}

// What the choice looks like for one model.
class Chooser {
 public:
  Chooser(const ModuleChoice& choice, const DecoderConfig& model, const std::string& source)
      : choice_(choice), source_(source) {
    for (const TensorSpec& spec : TensorTable(model)) {
      if (!spec.linear().empty()) linears_.push_back({spec.module(), spec.layer});
    }
  }

  [[nodiscard]] Result<AdapterModules> choose() {
    compile();
    check_targets();
    EMOE_RETURN_IF_ERROR(problems_.to_status());
    AdapterModules modules;
    for (const Module& linear : linears_) {
      if (!is_chosen(linear)) continue;
      modules[linear.path] = {.rank = value_for(linear, ranks_, choice_.rank),
                              .alpha = value_for(linear, alphas_, choice_.alpha)};
    }
    if (modules.empty()) problems_.add(source_, "target_modules", "names no linear of the model");
    EMOE_RETURN_IF_ERROR(problems_.to_status());
    return modules;
  }

 private:
  template <typename Value>
  struct Compiled {
    TextPattern pattern;
    Value value;
  };

  // Nothing, and a problem, where the expression cannot be used.
  std::optional<TextPattern> pattern(const char* key, Result<TextPattern> compiled) {
    if (compiled.ok()) return std::move(*compiled);
    problems_.add(source_, key, std::string(compiled.status().message()));
    return std::nullopt;
  }

  template <typename Value>
  void compile(const char* key, const std::vector<ModulePattern<Value>>& patterns,
               std::vector<Compiled<Value>>& into) {
    for (const auto& [expression, value] : patterns) {
      auto compiled = pattern(key, whole("(?:.*\\.)?", expression, ""));
      if (compiled) into.push_back({std::move(*compiled), value});
    }
  }

  void compile() {
    compile("rank_pattern", choice_.rank_pattern, ranks_);
    compile("alpha_pattern", choice_.alpha_pattern, alphas_);
    for (const std::string& expression : choice_.layer_patterns) {
      auto compiled = pattern("layers_pattern", whole("(?:.*?\\.)?", expression, "\\.\\d+\\..*"));
      if (compiled) layers_.push_back(std::move(*compiled));
    }
    if (choice_.target_pattern.empty()) return;
    targets_ = pattern("target_modules", whole("", choice_.target_pattern, ""));
  }

  // PEFT also puts adapters beside these.
  void check_targets() {
    for (const std::string other : {"lm_head", "model.embed_tokens"}) {
      if (targets_ && fits(*targets_, other)) {
        problems_.add(source_, "target_modules", absl::StrCat("matches ", other, beyond()));
      }
    }
    for (const std::string& target : choice_.targets) {
      const bool known = std::ranges::any_of(
          linears_, [&](const Module& linear) { return is_target(linear.path, target); });
      if (known) continue;
      problems_.add(source_, "target_modules", absl::StrCat("names \"", target, "\"", beyond()));
    }
  }

  static std::string beyond() {
    return absl::StrCat("; possible are ", absl::StrJoin(linear_names(), ", "),
                        " of the layers: adapters of other modules are not supported");
  }

  [[nodiscard]] bool is_chosen(const Module& linear) const {
    if (targets_) return fits(*targets_, linear.path);
    const std::vector<std::string>& targets = choice_.targets;
    if (std::ranges::find(targets, linear.path) != targets.end()) return true;
    const bool named = std::ranges::any_of(
        targets, [&](const std::string& target) { return is_target(linear.path, target); });
    if (!named || choice_.layers.empty()) return named;
    if (std::ranges::find(choice_.layers, linear.layer) == choice_.layers.end()) return false;
    return layers_.empty() || std::ranges::any_of(layers_, [&](const TextPattern& pattern) {
             return fits(pattern, linear.path);
           });
  }

  template <typename Value>
  static Value value_for(const Module& linear, const std::vector<Compiled<Value>>& patterns,
                         Value otherwise) {
    const auto found = std::ranges::find_if(
        patterns, [&](const auto& entry) { return fits(entry.pattern, linear.path); });
    return found == patterns.end() ? otherwise : found->value;
  }

  const ModuleChoice& choice_;
  const std::string& source_;
  std::vector<Module> linears_;
  std::optional<TextPattern> targets_;
  std::vector<TextPattern> layers_;
  std::vector<Compiled<int64_t>> ranks_;
  std::vector<Compiled<double>> alphas_;
  Diagnostics problems_;
};

}  // namespace

Result<AdapterModules> adapter_modules(const ModuleChoice& choice, const DecoderConfig& model,
                                       const std::string& source) {
  return Chooser(choice, model, source).choose();
}

std::string linear_of(const std::string& module) {
  return module.substr(module.rfind('.') + 1);
}

std::vector<std::string> linears_of(const AdapterModules& modules) {
  std::set<std::string> linears;
  for (const auto& [path, module] : modules) linears.insert(linear_of(path));
  return {linears.begin(), linears.end()};
}

}  // namespace emoe
