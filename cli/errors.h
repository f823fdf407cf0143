#pragma once

#include <string>

#include <grpcpp/support/status.h>

#include "base/exit_code.h"
#include "config/config.h"
#include "emoe/v1/job.pb.h"

namespace emoe::cli {

// Exit codes of emoectl. Those of a job that ended (submit --wait, watch) are the worker's.
enum ExitCode : int {
  kExitOk = static_cast<int>(emoe::ExitCode::done),
  kExitOther = 1,  // refused by the server for another reason; a job ended cancelled
  kExitUsage =
      static_cast<int>(emoe::ExitCode::configuration),  // arguments, job file, INVALID_ARGUMENT
  kExitData = static_cast<int>(emoe::ExitCode::data),
  kExitUnavailable = 69,  // no coordinator there, or no answer in time (EX_UNAVAILABLE)
  kExitInternal = static_cast<int>(emoe::ExitCode::internal),
  kExitPeerLost = static_cast<int>(emoe::ExitCode::peer_lost),
  kExitIo = static_cast<int>(emoe::ExitCode::io),
  kExitPreempted = static_cast<int>(emoe::ExitCode::preempted),
  kExitNonFinite = static_cast<int>(emoe::ExitCode::non_finite),
  kExitOutOfMemory = static_cast<int>(emoe::ExitCode::out_of_memory),
  kExitInterrupted = 130,  // Ctrl-C while waiting; the job goes on
};

[[nodiscard]] int exit_code_of(const grpc::Status& status);
// Of a job in a terminal state.
[[nodiscard]] int exit_code_of(const v1::Job& job);

// A failed call for people: code, reason, message, then one line for each violation, with the place
// in the job file where `locations` knows the key. Ends with a newline.
[[nodiscard]] std::string error_text(const grpc::Status& status, const std::string& server,
                                     const config::KeyLocations& locations = {});
// A failed call for scripts: google.rpc.Status in protobuf's JSON, on one line with a newline; the
// details (ErrorInfo, BadRequest, …) carry "@type". docs/ERRORS.md lists the reasons.
[[nodiscard]] std::string error_json(const grpc::Status& status);
// The same for errors found before anything was sent; violations name file and line.
[[nodiscard]] std::string error_text(const Status& status);
[[nodiscard]] std::string error_json(const Status& status);

}  // namespace emoe::cli
