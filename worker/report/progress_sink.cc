#include "worker/report/progress_sink.h"

namespace emoe::worker {

const char* to_string(Phase phase) {
  switch (phase) {
    case Phase::prepare:
      return "prepare";
    case Phase::data:
      return "data";
    case Phase::forward:
      return "forward";
    case Phase::backward:
      return "backward";
    case Phase::comm:
      return "comm";
    case Phase::optimizer:
      return "optimizer";
    case Phase::checkpoint:
      return "checkpoint";
    case Phase::eval:
      return "eval";
    case Phase::export_model:
      return "export";
  }
  return "unknown";
}

std::string to_string(const ResumeRecord& resume) {
  return "resumed from the checkpoint of step " + std::to_string(resume.from.step);
}

}  // namespace emoe::worker
