#include "worker/run/exit_code.h"

#include <new>
#include <string_view>

#include "worker/comm/communicator.h"
#include "worker/eval/non_finite_error.h"
#include "worker/train/errors.h"

namespace emoe::worker {

ExitCode input_error_code(const Status& status) {
  switch (status.code()) {
    case StatusCode::kNotFound:
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnimplemented:
    case StatusCode::kFailedPrecondition:
      return ExitCode::configuration;
    case StatusCode::kInternal:
      return ExitCode::internal;
    case StatusCode::kResourceExhausted:
      return ExitCode::io;
    default:
      return ExitCode::data;
  }
}

ExitCode output_error_code(const Status& status) {
  switch (status.code()) {
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
    case StatusCode::kAlreadyExists:
      return ExitCode::configuration;
    case StatusCode::kInternal:
      return ExitCode::internal;
    default:
      return ExitCode::io;
  }
}

void output_or_throw(const Status& status) {
  if (!status.ok()) throw JobError(output_error_code(status), std::string(status.message()));
}

void input_or_throw(const Status& status) {
  if (!status.ok()) throw JobError(input_error_code(status), std::string(status.message()));
}

ExitCode exit_code_of(const std::exception& error) {
  if (const auto* job = dynamic_cast<const JobError*>(&error)) return job->code();
  if (dynamic_cast<const CommunicationError*>(&error) != nullptr) return ExitCode::peer_lost;
  if (dynamic_cast<const NonFiniteError*>(&error) != nullptr) return ExitCode::non_finite;
  if (dynamic_cast<const CheckpointError*>(&error) != nullptr) return ExitCode::io;
  if (dynamic_cast<const ResumeError*>(&error) != nullptr) return ExitCode::configuration;
  if (dynamic_cast<const std::bad_alloc*>(&error) != nullptr) return ExitCode::out_of_memory;
  // Options that leave nothing to do (no step, no target): the job asks for it.
  if (dynamic_cast<const std::invalid_argument*>(&error) != nullptr) return ExitCode::configuration;
  // LibTorch throws c10::Error for a failed allocation; its type cannot be named here (see
  // check_layers.py).
  const std::string_view text = error.what();
  for (const char* sign : {"not enough memory", "can't allocate memory", "out of memory"}) {
    if (text.find(sign) != std::string_view::npos) return ExitCode::out_of_memory;
  }
  return ExitCode::internal;
}

}  // namespace emoe::worker
