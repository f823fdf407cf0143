#include "server/job/job_warnings.h"

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

void warn_of(const v1::JobSpec& spec, const SpecFacts& facts, Diagnostics& diagnostics) {
  if (spec.task() != "train") return;
  const std::vector<data::RowKey> trained =
      facts.train ? facts.train->rows : std::vector<data::RowKey>();
  if (facts.eval) {
    const std::vector<std::filesystem::path> eval_files{spec.data().eval()};
    data::warn_of_shared_rows(trained, facts.eval->rows, eval_files, diagnostics);
  }
  const v1::Train& train = spec.train();
  const bool counted = data::find_row_format(spec.data().format())->has_messages();
  const int64_t rows = counted ? facts.train_rows : 0;
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

v1::DataReceipt receipt_of(const SpecFacts& facts) {
  v1::DataReceipt receipt;
  receipt.set_template_(facts.chat_template);
  receipt.set_rows(facts.train_rows);
  receipt.set_held_out_rows(facts.eval ? std::ssize(facts.eval->rows) : facts.held_out);
  const auto& check = facts.train ? facts.train : facts.eval;
  if (!check) return receipt;
  if (facts.train) receipt.set_duplicates(check->duplicates);
  receipt.set_sampled_rows(check->sampled);
  receipt.set_longest_tokens(check->longest);
  receipt.set_cut_rows(check->cut);
  if (check->made > 0) {
    receipt.set_mean_tokens(static_cast<double>(check->tokens) / static_cast<double>(check->made));
    receipt.set_target_share(static_cast<double>(check->target_tokens) /
                             static_cast<double>(check->tokens));
  }
  return receipt;
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
