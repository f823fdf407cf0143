#include "worker/run/ffn_choice.h"

#include <map>
#include <stdexcept>

#include <absl/strings/str_cat.h>
#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"
#include "format/strict_json.h"
#include "worker/model/ffn.h"
#include "worker/run/job_error.h"

namespace emoe::worker {
namespace {

constexpr int64_t kTokens = 512;  // of the measurement

// Empty where there is no choice. `out` null: another rank's measurement counts.
std::string measured_ffn(Model& model, const OutputFolder* out) {
  const std::map<std::string, double> seconds = model.time_ffns(kTokens);
  if (seconds.empty() || out == nullptr) return "";
  const double ratio = seconds.at("sparse") / seconds.at("masked");
  const std::string name = faster_ffn(seconds);
  log_info("experts: %s, measured: the sparse FFN takes %.2f of the time of the masked one", name,
           ratio);
  const nlohmann::ordered_json json = {{"ffn", name}, {"tokens", kTokens}, {"seconds", seconds}};
  output_or_throw(write_file_atomically(out->ffn_choice(), json.dump(1) + "\n"));
  return name;
}

std::string recorded_ffn(const OutputFolder& out) {
  const Result<std::string> content = read_file(out.ffn_choice());
  if (content.status().code() == StatusCode::kNotFound) return "";
  const std::string path = out.ffn_choice().string();
  const auto json = input_or_throw(parse_strict_json(input_or_throw(content), path));
  if (json.is_object() && json.contains("ffn") && json["ffn"].is_string()) return json["ffn"];
  throw JobError(ExitCode::data, path + ": names no FFN back-end; remove it to measure anew");
}

}  // namespace

void choose_ffn(Model& model, const OutputFolder& out, HostGroup& host, const std::string& wanted) {
  if (model.options().emoe.partitions.empty()) return;
  const bool first = host.rank() == 0;
  std::string name = wanted;
  if (name.empty()) name = host.broadcast(first ? recorded_ffn(out) : "", 0);
  if (name.empty()) {
    const bool measures = first || model.passes_are_collective();
    name = host.broadcast(measures ? measured_ffn(model, first ? &out : nullptr) : "", 0);
  }
  if (name.empty()) return;
  try {
    model.use_ffn(name);
  } catch (const std::invalid_argument& error) {
    throw JobError(ExitCode::configuration,
                   absl::StrCat(wanted.empty() ? out.ffn_choice().string() : "EMOE_FFN", ": ",
                                error.what(), "; there are masked and sparse"));
  }
}

}  // namespace emoe::worker
