#include "worker/run/job_error.h"

#include <filesystem>
#include <new>
#include <string_view>

#include "worker/comm/collective_counters.h"
#include "worker/errors.h"

namespace emoe::worker {

namespace {

// LibTorch throws c10::Error for a failed allocation, whose type cannot be named here (see
// check_layers.py), and ENOMEM shares its canonical code with a full disk: what is left is the
// text.
bool says_out_of_memory(std::string_view text) {
  for (const char* sign :
       {"not enough memory", "can't allocate memory", "out of memory", "Cannot allocate memory"}) {
    if (text.find(sign) != std::string_view::npos) return true;
  }
  return false;
}

bool is_out_of_memory(const Status& status) {
  return says_out_of_memory({status.message().data(), status.message().size()});
}

}  // namespace

ExitCode input_error_code(const Status& status) {
  if (is_out_of_memory(status)) return ExitCode::out_of_memory;
  switch (status.code()) {
    case StatusCode::kNotFound:
    case StatusCode::kPermissionDenied:
    case StatusCode::kUnimplemented:
    case StatusCode::kFailedPrecondition:
      return ExitCode::configuration;
    case StatusCode::kInvalidArgument:
    case StatusCode::kDataLoss:
    case StatusCode::kOutOfRange:
      return ExitCode::data;
    case StatusCode::kInternal:
      return ExitCode::internal;
    default:  // what the kernel says of a disk, a mount or a limit
      return ExitCode::io;
  }
}

ExitCode output_error_code(const Status& status) {
  if (is_out_of_memory(status)) return ExitCode::out_of_memory;
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

ExitCode export_error_code(const Status& status) {
  switch (status.code()) {
    case StatusCode::kDataLoss:
      return ExitCode::internal;
    case StatusCode::kOutOfRange:
      return ExitCode::non_finite;
    case StatusCode::kAborted:
      return ExitCode::data;
    default:
      return output_error_code(status);
  }
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
  if (says_out_of_memory(error.what())) return ExitCode::out_of_memory;
  if (dynamic_cast<const std::filesystem::filesystem_error*>(&error) != nullptr)
    return ExitCode::io;
  return ExitCode::internal;
}

}  // namespace emoe::worker
