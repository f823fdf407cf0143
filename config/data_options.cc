#include "config/data_options.h"

namespace emoe::config {
namespace {

DatasetOptions common(const v1::JobSpec& spec, const char* key) {
  const v1::Data& data = spec.data();
  DatasetOptions options;
  options.key = key;
  options.format = data.format();
  options.chat_template = data.template_();
  options.fields = {data.fields().begin(), data.fields().end()};
  options.last_answer_only = data.answers() == "last";
  options.max_length = data.max_length();
  options.train_on_prompt = data.train_on_prompt();
  options.seed = spec.train().seed();
  return options;
}

// Of the files of data.train, the rows on one side of data.eval_fraction.
DatasetOptions of_train_files(const v1::JobSpec& spec, const char* key, data::HeldOut::Side side) {
  const v1::Data& data = spec.data();
  DatasetOptions options = common(spec, key);
  if (!data.train().empty()) options.files.push_back({data.train()});
  for (const v1::DataFile& file : data.train_files()) {
    options.files.push_back({file.path(), file.has_weight() ? file.weight() : 1.0});
  }
  options.fraction = data.fraction();
  if (data.has_eval_fraction()) options.held_out = {side, data.eval_fraction()};
  return options;
}

}  // namespace

std::optional<DatasetOptions> train_data(const v1::JobSpec& resolved) {
  if (resolved.task() == "evaluate" || resolved.task() == "merge" || resolved.task() == "convert")
    return std::nullopt;
  return of_train_files(resolved, "data.train", data::HeldOut::Side::train);
}

std::optional<DatasetOptions> eval_data(const v1::JobSpec& resolved) {
  const v1::Data& data = resolved.data();
  if (data.has_eval_fraction()) {
    return of_train_files(resolved, "data.eval_fraction", data::HeldOut::Side::eval);
  }
  if (data.eval().empty()) return std::nullopt;
  DatasetOptions options = common(resolved, "data.eval");
  options.files.push_back({data.eval()});
  return options;
}

}  // namespace emoe::config
