#include <algorithm>

#include <nlohmann/json.hpp>

#include "worker/weights/export.h"

namespace emoe::worker {

int64_t ExportReport::tensors_expected() const {
  return std::count_if(tensors.begin(), tensors.end(),
                       [](const TensorReport& entry) { return entry.expected_changed; });
}

int64_t ExportReport::tensors_changed() const {
  return std::count_if(tensors.begin(), tensors.end(),
                       [](const TensorReport& entry) { return entry.changed; });
}

int64_t ExportReport::tensors_converted() const {
  return std::count_if(tensors.begin(), tensors.end(), [](const TensorReport& entry) {
    return entry.converted && !entry.expected_changed;
  });
}

int64_t ExportReport::tensors_unchanged() const {
  return std::count_if(tensors.begin(), tensors.end(), [](const TensorReport& entry) {
    return !entry.changed && (entry.expected_changed || !entry.converted);
  });
}

std::string ExportReport::to_json() const {
  using Json = nlohmann::ordered_json;
  double max_abs_delta = 0.0;
  double rounding_loss = 0.0;
  Json trained = Json::array();
  Json converted = Json::array();
  for (const TensorReport& entry : tensors) {
    max_abs_delta = std::max(max_abs_delta, entry.max_abs_delta);
    rounding_loss = std::max(rounding_loss, entry.rounding_loss);
    if (!entry.expected_changed) {
      if (entry.converted) converted.push_back(entry.name);
      continue;
    }
    trained.push_back({{"name", entry.name},
                       {"changed", entry.changed},
                       {"max_abs_delta", entry.max_abs_delta},
                       {"rounding_loss", entry.rounding_loss}});
  }
  Json json;
  json["verified"] = verified;
  json["dtype"] = dtype;
  json["base"] = base;
  json["tensors_expected"] = tensors_expected();
  json["tensors_changed"] = tensors_changed();
  json["tensors_unchanged"] = tensors_unchanged();
  json["tensors_converted"] = tensors_converted();
  json["max_abs_delta"] = max_abs_delta;
  json["rounding_loss"] = rounding_loss;
  json["logits"] = {{"probe_tokens", probe_tokens},
                    {"max_abs", max_abs_logit},
                    {"max_abs_difference", max_abs_logit_difference},
                    {"max_abs_difference_to_base", max_abs_logit_change},
                    {"tolerance", logit_tolerance}};
  json["problems"] = problems;
  json["warnings"] = warnings;
  json["trained"] = std::move(trained);
  json["converted"] = std::move(converted);
  json["sha256"] = sha256;
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

}  // namespace emoe::worker
