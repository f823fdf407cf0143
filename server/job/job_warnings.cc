#include "server/job/job_warnings.h"

#include <cmath>

#include <nlohmann/json.hpp>

#include "config/warnings.h"

namespace emoe::server {

namespace {

// Of a text format only the tokenizer knows how many rows there are to train on.
int64_t steps_of(const v1::Train& train, int64_t rows) {
  if (train.max_steps() > 0) return train.max_steps();
  const int64_t batch = train.global_batch();
  return train.epochs() * (train.drop_last() ? rows / batch : (rows + batch - 1) / batch);
}

}  // namespace

void warn_of(const v1::JobSpec& spec, SpecFacts facts, Diagnostics& diagnostics) {
  if (spec.task() != "train") return;
  const double usable =
      std::ceil(spec.data().fraction() * static_cast<double>(facts.train_rows.size()));
  facts.train_rows.resize(static_cast<size_t>(usable));
  data::warn_of_shared_rows(facts.train_rows, facts.eval_rows, spec.data().eval(), diagnostics);
  const v1::Train& train = spec.train();
  const bool counted = data::find_row_format(spec.data().format())->has_messages();
  const int64_t rows = counted ? std::ssize(facts.train_rows) : 0;
  config::warn_of_warmup(spec.optimizer().warmup_ratio(), steps_of(train, rows), diagnostics);
  config::warn_of_rest({.rows = rows,
                        .global_batch = train.global_batch(),
                        .epochs = train.max_steps() > 0 ? 0 : train.epochs(),
                        .drop_last = train.drop_last(),
                        .shuffle = spec.data().shuffle()},
                       diagnostics);
  if (spec.export_().merged() && facts.end_of_generation) {
    diagnostics.warn(*facts.end_of_generation);
  }
}

v1::Warning to_message(const Warning& warning) {
  v1::Warning message;
  message.set_code(warning.code);
  message.set_text(warning.text);
  message.set_where(warning.where);
  message.set_count(warning.count);
  message.set_first(warning.first);
  return message;
}

std::string warnings_json(const v1::Job& job) {
  nlohmann::ordered_json list = nlohmann::ordered_json::array();
  for (const v1::Warning& warning : job.warnings()) {
    list.push_back(Warning{.code = warning.code(),
                           .text = warning.text(),
                           .where = warning.where(),
                           .count = warning.count(),
                           .first = warning.first()});
  }
  return list.dump(1) + "\n";
}

}  // namespace emoe::server
