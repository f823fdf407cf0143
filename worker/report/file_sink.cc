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
    : steps_(out_dir / "metrics.jsonl"),
      evals_(out_dir / "eval.jsonl"),
      warnings_file_(out_dir / kWarningsFile) {}

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
                                   {"seconds", record.seconds}})
                         .dump()));
}

void FileSink::write(const EvalRecord& record) {
  // A run that resumes where one was made makes it again.
  note(evals_.drop([&](int64_t step) { return step == record.step; }));
  note(evals_.append(ordered_json({{"step", record.step},
                                   {"loss", record.loss},
                                   {"loss_dense", record.loss_dense},
                                   {"perplexity", record.perplexity},
                                   {"target_tokens", record.target_tokens}})
                         .dump()));
}

void FileSink::write(const Warnings& warnings) {
  for (const Warning& warning : warnings) merge_warning(warnings_, warning);
  warnings_unwritten_ = true;
  note(write_warnings());
}

// Few and small: the whole list each time.
Status FileSink::write_warnings() {
  if (!warnings_unwritten_) return ok_status();
  const ordered_json list = warnings_;
  EMOE_RETURN_IF_ERROR(write_file_atomically(
      warnings_file_, list.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n"));
  warnings_unwritten_ = false;
  return ok_status();
}

Status FileSink::finish() {
  EMOE_RETURN_IF_ERROR(write_warnings());
  EMOE_RETURN_IF_ERROR(steps_.flush());
  return evals_.flush();
}

void FileSink::note(const Status& status) {
  if (status.ok() || std::exchange(warned_, true)) return;
  log_warning("metrics are kept back until they can be written: %s", std::string(status.message()));
}

}  // namespace emoe::worker
