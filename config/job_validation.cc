// The rows of schema.cc and job_rules.cc, applied to a job.
#include <algorithm>

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "config/config.h"
#include "config/schema.h"
#include "config/validation.h"
#include "config/warnings.h"

namespace emoe::config {
namespace {

// A whole number or text of the spec, that of element `i` where the key is a list.
std::string text_of(const RuleInput& in, const std::string& name) {
  const auto derived = rule_values().find(name);
  if (derived != rule_values().end()) return derived->second(in);
  const FieldAt at = find_field(in.spec, name);
  EMOE_CHECK(at.message != nullptr, name);
  const FieldValue value = value_of(*at.message, *at.field, at.field->is_repeated() ? in.i : -1);
  const auto* text = std::get_if<std::string>(&value);
  return text != nullptr ? *text : absl::StrCat(std::get<int64_t>(value));
}

std::string fill_in(const std::string& reason, const RuleInput& in) {
  std::string text;
  size_t done = 0;
  for (size_t at; (at = reason.find("${", done)) != std::string::npos;) {
    const size_t end = reason.find('}', at);
    absl::StrAppend(&text, reason.substr(done, at - done),
                    text_of(in, reason.substr(at + 2, end - at - 2)));
    done = end + 1;
  }
  return text + reason.substr(done);
}

void check_rules(const JobRules& rules, RuleInput in, const KeyReporter& report) {
  for (const JobRule& rule : rules) {
    const bool each = rule.where == JobRule::at_each;
    const int count = each ? std::min(find_field(in.spec, rule.key).size(), kMaxEntries) : 1;
    for (in.i = 0; in.i < count; ++in.i) {
      if (!rule.broken(in)) continue;
      report(each ? absl::StrCat(rule.key, "[", in.i, "]") : rule.key, fill_in(rule.reason, in));
    }
  }
}

// A key that the task does not use would be ignored, and the user meant something by it. An empty
// text means nothing, and what lies in a section that is not used is said with it.
void check_used(const v1::JobSpec& spec, const KeyReporter& report) {
  std::string section;
  for (const FieldRule& rule : job_schema()) {
    const FieldAt at = find_field(spec, rule.key);
    if (is_used(rule, spec) || !at.present()) continue;
    if (!section.empty() && is_within(rule.key, section)) continue;
    if (!at.field->is_repeated() && value_of(*at.message, *at.field) == FieldValue("")) continue;
    section = rule.key;
    report(rule.key, absl::StrCat("is not used by task: ", spec.task(), "; leave it out"));
  }
}

ModelShape shape_of(const v1::ModelInit& init) {
  return {.num_hidden_layers = init.num_hidden_layers(),
          .intermediate_size = init.intermediate_size(),
          .max_position_embeddings = init.max_position_embeddings(),
          .num_attention_heads = init.num_attention_heads(),
          .num_key_value_heads = init.num_key_value_heads(),
          .dtypes = {}};
}

}  // namespace

void validate(const v1::JobSpec& resolved, const KeyLocations& locations,
              Diagnostics& diagnostics) {
  check_used(resolved, KeyReporter(locations, diagnostics));
  check_rows(job_schema(), resolved, locations, diagnostics);
  check_rules(spec_rules(), {.spec = resolved}, KeyReporter(locations, diagnostics));
  if (resolved.model().has_init()) {
    validate_against_model(resolved, shape_of(resolved.model().init()), locations, diagnostics);
  }
}

void validate_against_model(const v1::JobSpec& resolved, const ModelShape& shape,
                            const KeyLocations& locations, Diagnostics& diagnostics) {
  check_rules(model_rules(), {.spec = resolved, .shape = shape},
              KeyReporter(locations, diagnostics));
}

v1::JobSpec check(const v1::JobSpec& spec, const KeyLocations& locations,
                  const std::optional<ModelShape>& shape, Diagnostics& diagnostics) {
  v1::JobSpec resolved = resolve(spec);
  validate(resolved, locations, diagnostics);
  reject_unsupported(resolved, locations, diagnostics);
  if (!shape) return resolved;
  validate_against_model(resolved, *shape, locations, diagnostics);
  warn_of_dtype(spec.model().has_dtype(), resolved.model().dtype(), shape->dtypes, diagnostics);
  return resolved;
}

void reject_unsupported(const v1::JobSpec& resolved, const KeyLocations& locations,
                        Diagnostics& diagnostics) {
  check_rules(unsupported_rules(), {.spec = resolved}, KeyReporter(locations, diagnostics));
}

int replicas_of(const v1::JobSpec& resolved) {
  const v1::Parallel& parallel = resolved.parallel();
  return std::max(parallel.ranks() / std::max(parallel.tensor(), 1), 1);
}

std::vector<int64_t> converted_layers(const v1::JobSpec& resolved, int64_t num_hidden_layers) {
  std::vector<int64_t> layers;
  if (resolved.emoe().experts() <= 0) return layers;
  const v1::EmoeLayers& wanted = resolved.emoe().layers();
  if (wanted.list_size() > 0) {
    layers.assign(wanted.list().begin(), wanted.list().end());
    std::sort(layers.begin(), layers.end());
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  } else if (wanted.has_start() && wanted.start() >= 0) {
    const int64_t every = std::max(wanted.every(), 1);
    for (int64_t l = wanted.start(); l < num_hidden_layers; l += every) layers.push_back(l);
  }
  return layers;
}

}  // namespace emoe::config
