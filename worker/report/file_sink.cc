#include "worker/report/file_sink.h"

#include <system_error>
#include <utility>

#include <nlohmann/json.hpp>

#include "base/file.h"
#include "base/log.h"

namespace emoe::worker {
namespace {

using nlohmann::ordered_json;

bool keep(const std::string& line, const std::function<bool(int64_t)>& unwanted) {
  const auto value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!value.is_object()) return false;
  const auto step = value.find("step");
  return step != value.end() && step->is_number_integer() && !unwanted(step->get<int64_t>());
}

// A line of eval.jsonl.
ordered_json line_of(const EvalRecord& record) {
  ordered_json line = {{"step", record.step}};
  if (record.target_tokens > 0 || record.suite == nullptr) {
    line["loss"] = record.loss;
    line["loss_dense"] = record.loss_dense;
    line["perplexity"] = record.perplexity;
    line["target_tokens"] = record.target_tokens;
  }
  if (record.suite == nullptr) return line;
  line["suite"] = record.suite->suite;
  line["shots"] = record.suite->shots;
  line["split"] = record.suite->split;
  line["scored"] = record.suite->scored();
  line["unscored"] = record.suite->unscored();
  line["accuracy"] = record.suite->accuracy();
  line["accuracy_subject_mean"] = record.suite->accuracy_subject_mean();
  line["accuracy_dense"] = record.suite_dense->accuracy();
  line["accuracy_subject_mean_dense"] = record.suite_dense->accuracy_subject_mean();
  return line;
}

}  // namespace

Status JsonLines::drop(const std::function<bool(int64_t)>& unwanted) {
  if (!std::filesystem::exists(path_)) return ok_status();
  EMOE_ASSIGN_OR_RETURN(const std::string text, read_file(path_));
  std::string kept;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    if (end == std::string::npos) break;  // torn: a line is whole with its newline
    const std::string line = text.substr(begin, end - begin);
    if (keep(line, unwanted)) kept += line + "\n";
    begin = end + 1;
  }
  if (kept == text) return ok_status();
  return write_file_atomically(path_, kept);
}

Status JsonLines::append(const std::string& line) {
  unwritten_ += line + "\n";
  return flush();
}

Status JsonLines::sync() {
  EMOE_RETURN_IF_ERROR(flush());
  if (!std::filesystem::exists(path_)) return ok_status();
  EMOE_RETURN_IF_ERROR(sync_file(path_));
  return sync_directory(path_.parent_path());
}

Status JsonLines::flush() {
  if (unwritten_.empty()) return ok_status();
  std::error_code error;
  const auto size = std::filesystem::file_size(path_, error);
  if (error && error != std::errc::no_such_file_or_directory)
    return errno_status(error.value(), "cannot read the size of " + path_.string());
  const uintmax_t size_before = error ? 0 : size;
  Status status = append_to_file(path_, unwritten_);
  if (status.ok()) {
    unwritten_.clear();
  } else {
    std::filesystem::resize_file(path_, size_before, error);  // the part that did fit
  }
  return status;
}

FileSink::FileSink(const std::filesystem::path& out_dir)
    : out_dir_(out_dir), steps_(out_dir / "metrics.jsonl"), evals_(out_dir / "eval.jsonl") {}

void FileSink::write(const PlanRecord& plan) {
  note(steps_.drop([&](int64_t step) { return step >= plan.first_step; }));
  note(evals_.drop([&](int64_t step) { return step > plan.first_step; }));
}

void FileSink::before_checkpoint() {
  note(steps_.sync());
  note(evals_.sync());
}

void FileSink::write(const StepRecord& record) {
  note(steps_.append(ordered_json({{"step", record.step},
                                   {"loss", record.loss},
                                   {"learning_rate", record.learning_rate},
                                   {"grad_norm", record.grad_norm},
                                   {"tokens", record.tokens},
                                   {"target_tokens", record.target_tokens},
                                   {"seconds", record.seconds},
                                   {"ranks", record.ranks}})
                         .dump()));
}

void FileSink::write(const EvalRecord& record) {
  // A run that resumes where one was made makes it again.
  note(evals_.drop([&](int64_t step) { return step == record.step; }));
  note(evals_.append(line_of(record).dump()));
  if (record.suite == nullptr) return;
  files_["evaluation.json"] = record.suite->to_json();
  if (record.suite_dense != record.suite) {
    files_["evaluation_dense.json"] = record.suite_dense->to_json();
  }
  note(write_files());
}

void FileSink::write(const PreflightRecord& record) {
  ordered_json rows = ordered_json::array();
  for (const PreflightRow& row : record.rows) {
    rows.push_back({{"rank", row.rank},
                    {"host", row.host},
                    {"check", row.check},
                    {"value", row.value},
                    {"verdict", row.verdict},
                    {"advice", row.advice}});
  }
  files_["preflight.json"] =
      rows.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  note(write_files());
}

// Few and small: the whole list each time.
void FileSink::write(const Warnings& warnings) {
  for (const Warning& warning : warnings) merge_warning(warnings_, warning);
  const ordered_json list = warnings_;
  files_[kWarningsFile] = list.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
  note(write_files());
}

Status FileSink::write_files() {
  while (!files_.empty()) {
    const auto& [name, content] = *files_.begin();
    EMOE_RETURN_IF_ERROR(write_file_atomically(out_dir_ / name, content));
    files_.erase(files_.begin());
  }
  return ok_status();
}

Status FileSink::finish() {
  EMOE_RETURN_IF_ERROR(write_files());
  EMOE_RETURN_IF_ERROR(steps_.flush());
  return evals_.flush();
}

void FileSink::note(const Status& status) {
  if (status.ok() || std::exchange(warned_, true)) return;
  log_warning("metrics are kept back until they can be written: %s", std::string(status.message()));
}

}  // namespace emoe::worker
