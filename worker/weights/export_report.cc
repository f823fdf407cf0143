#include "worker/weights/export_report.h"

#include <algorithm>
#include <cmath>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>
#include <nlohmann/json.hpp>

#include "format/dtype.h"

namespace emoe::worker {
namespace {

bool is_zero(const TensorReport& entry) {
  return entry.expected_changed && entry.max_abs_delta == 0.0;
}

bool is_mostly_lost(const TensorReport& entry) {
  return entry.relative_rounding_loss() > 0.5;
}

// Tells of the trained tensors that `is_so` holds for, as "3 of 21 trained tensors …".
void warn_of_tensors(ExportReport& report, const char* code, bool (*is_so)(const TensorReport&),
                     const std::string& what) {
  Warning warning{.code = code, .where = "export/merge_report.json", .count = 0};
  for (const TensorReport& entry : report.tensors) {
    if (is_so(entry) && warning.count++ == 0) warning.first = entry.name;
  }
  if (warning.count == 0) return;
  warning.text =
      absl::StrCat(warning.count, " of ", report.tensors_expected(), " trained tensors ", what);
  report.warnings.push_back(std::move(warning));
}

nlohmann::ordered_json rounding_json(const TensorReport& entry) {
  return {{"name", entry.name},
          {"dtype", entry.dtype},
          {"rounding_loss", entry.rounding.max_abs},
          {"flushed_to_zero", entry.rounding.flushed}};
}

nlohmann::ordered_json trained_json(const TensorReport& entry) {
  nlohmann::ordered_json json = rounding_json(entry);
  json["changed"] = entry.changed;
  json["max_abs_delta"] = entry.max_abs_delta;
  json["relative_rounding_loss"] = entry.relative_rounding_loss();
  return json;
}

}  // namespace

double TensorReport::relative_rounding_loss() const {
  return expected_changed && delta_norm > 0.0 ? rounding.norm / delta_norm : 0.0;
}

int64_t ExportReport::tensors_expected() const {
  return std::ranges::count_if(tensors, &TensorReport::expected_changed);
}

int64_t ExportReport::tensors_changed() const {
  return std::ranges::count_if(tensors, &TensorReport::changed);
}

int64_t ExportReport::tensors_converted() const {
  return std::ranges::count_if(tensors, [](const TensorReport& entry) {
    return entry.converted && !entry.expected_changed;
  });
}

int64_t ExportReport::tensors_unchanged() const {
  return std::ranges::count_if(tensors, [](const TensorReport& entry) {
    return !entry.changed && (entry.expected_changed || !entry.converted);
  });
}

std::map<std::string, int64_t> ExportReport::dtypes() const {
  std::map<std::string, int64_t> counts;
  for (const TensorReport& entry : tensors) ++counts[entry.dtype];
  return counts;
}

double ExportReport::relative_rounding_loss() const {
  double lost = 0.0;
  double delta = 0.0;
  for (const TensorReport& entry : tensors) {
    if (!entry.expected_changed) continue;
    lost += entry.rounding.norm * entry.rounding.norm;
    delta += entry.delta_norm * entry.delta_norm;
  }
  return delta > 0.0 ? std::sqrt(lost / delta) : 0.0;
}

const TensorReport* ExportReport::worst_rounded() const {
  const auto worst = std::ranges::max_element(tensors, {}, &TensorReport::relative_rounding_loss);
  return worst == tensors.end() || worst->relative_rounding_loss() == 0.0 ? nullptr : &*worst;
}

std::string ExportReport::trained_in() const {
  std::set<std::string> names;
  for (const TensorReport& entry : tensors) {
    if (entry.expected_changed) names.insert(word_of_dtype(entry.dtype));
  }
  return absl::StrJoin(names, " and ");
}

std::string ExportReport::to_json() const {
  using Json = nlohmann::ordered_json;
  double max_abs_delta = 0.0;
  double rounding_loss = 0.0;
  int64_t flushed = 0;
  Json trained = Json::array();
  Json converted = Json::array();
  for (const TensorReport& entry : tensors) {
    max_abs_delta = std::max(max_abs_delta, entry.max_abs_delta);
    rounding_loss = std::max(rounding_loss, entry.rounding.max_abs);
    flushed += entry.rounding.flushed;
    if (entry.expected_changed) {
      trained.push_back(trained_json(entry));
    } else if (entry.converted) {
      converted.push_back(rounding_json(entry));
    }
  }
  const TensorReport* worst = worst_rounded();
  const Json logits = {{"probe_tokens", probe_tokens},
                       {"max_abs", max_abs_logit},
                       {"max_abs_difference", max_abs_logit_difference},
                       {"max_abs_difference_to_base", max_abs_logit_change},
                       {"tolerance", logit_tolerance}};
  const Json json = {
      {"verified", verified},
      {"dtype", dtype},
      {"dtypes", dtypes()},
      {"base", base},
      {"tensors_expected", tensors_expected()},
      {"tensors_changed", tensors_changed()},
      {"tensors_unchanged", tensors_unchanged()},
      {"tensors_converted", tensors_converted()},
      {"tensors_reordered", std::ranges::count_if(tensors, &TensorReport::reordered)},
      {"max_abs_delta", max_abs_delta},
      {"rounding_loss", rounding_loss},
      {"relative_rounding_loss", relative_rounding_loss()},
      {"worst_rounded", worst == nullptr ? Json(nullptr) : trained_json(*worst)},
      {"flushed_to_zero", flushed},
      {"logits", logits},
      {"problems", problems},
      {"warnings", warnings},
      {"trained", trained},
      {"converted", converted},
      {"sha256", sha256}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void warn_of_lost_deltas(ExportReport& report) {
  warn_of_tensors(report, warning::kDeltaZero, is_zero,
                  "with a delta of exactly 0: training moved nothing");
  warn_of_tensors(report, warning::kDeltaLost, is_mostly_lost,
                  absl::StrFormat("rounded to %s by more than half of their delta (all together by "
                                  "%.2g %% of it)",
                                  report.trained_in(), 100.0 * report.relative_rounding_loss()));
}

}  // namespace emoe::worker
