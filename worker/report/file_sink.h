#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <string>

#include "base/status.h"
#include "worker/report/progress_sink.h"

namespace emoe::worker {

// A file of one JSON object per line, each with a number "step", that only grows, except that a
// resumed run first drops what it will do again. Readers may follow it at any time.
//
// Lines that cannot be written (disk full) are kept and tried again with the next one; the file
// never ends in half a line. Not thread-safe.
class JsonLines {
 public:
  explicit JsonLines(std::filesystem::path path) : path_(std::move(path)) {}

  // Removes the lines whose step `unwanted` accepts, and lines that are no JSON (torn by a crash).
  // A file that is not there has none.
  [[nodiscard]] Status drop(const std::function<bool(int64_t step)>& unwanted);
  // `line` without its newline.
  [[nodiscard]] Status append(const std::string& line);
  // Writes what is still kept back; OK when there is nothing.
  [[nodiscard]] Status flush();
  // The same; and all lines survive a power cut.
  [[nodiscard]] Status sync();

 private:
  std::filesystem::path path_;
  std::string unwritten_;
};

// metrics.jsonl, eval.jsonl, warnings.json and of a suite the last evaluation.json (and
// evaluation_dense.json) in the output folder, floats in full precision (the shortest text
// that reads back to the same double; null for NaN and infinities). Rank 0 has one.
//
// A PlanRecord, before the first step or evaluation, drops what a resumed run will do again: steps
// from first_step on, evaluations made after first_step steps or later ones made again. So every
// step stands in the file once, whatever crashed before.
//
// No method throws: lines that do not fit on the disk are kept and tried again with every later
// line; finish() tells whether all are written. Not thread-safe (the step loop's thread).
class FileSink final : public ProgressSink {
 public:
  explicit FileSink(const std::filesystem::path& out_dir);

  void on(const Event& event) override {
    std::visit([this](const auto& what) { write(what); }, event);
  }
  void before_checkpoint() override;
  void on_work_done() override {}

  // Writes what is left; RESOURCE_EXHAUSTED (disk full) or another error of the file: exit code 74.
  [[nodiscard]] Status finish();

 private:
  void write(const PlanRecord& plan);
  void write(const StepRecord& record);
  void write(const EvalRecord& record);
  void write(Phase /*phase*/) {}
  void write(const EvalProgress& /*progress*/) {}
  void write(const CheckpointRecord& /*record*/) {}
  void write(const CheckpointFailure& failure) { write(Warnings{failure.warning}); }
  void write(const ResumeRecord& /*resume*/) {}
  void write(const MergeRecord& /*record*/) {}
  void write(const Message& /*message*/) {}
  void write(const Warnings& warnings);
  void write(const NonFiniteStep& /*step*/) {}
  void write(const ExpertLoad& /*load*/) {}
  void write(const PreflightRecord& record);
  void note(const Status& status);

  // Those that could not be written are tried again with the next.
  [[nodiscard]] Status write_files();

  std::filesystem::path out_dir_;
  JsonLines steps_;
  JsonLines evals_;
  Warnings warnings_;                         // all so far
  std::map<std::string, std::string> files_;  // name → new content, not written yet
  bool warned_ = false;
};

}  // namespace emoe::worker
