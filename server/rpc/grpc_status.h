#pragma once

#include <functional>

#include <grpcpp/support/status.h>

#include "base/status.h"

namespace emoe::server {

// An error for the wire: canonical code, message, and a google.rpc.Status in the details with
// ErrorInfo (domain "emoe.v1"), a BadRequest with a FieldViolation per violation, and RetryInfo and
// QuotaFailure where they belong (QUEUE_FULL, DRAINING). Long texts are cut and violations that do
// not fit are counted in a last one, so that all of it stays below the 8 KiB a client accepts.
[[nodiscard]] grpc::Status to_grpc(const Status& status);

// A stream that ends before it began; gRPC owns it until its OnDone.
template <typename Reactor>
class Refusal final : public Reactor {
 public:
  explicit Refusal(const Status& status) { this->Finish(to_grpc(status)); }
  void OnDone() override { delete this; }
};

// Calls `body` and turns an exception into INTERNAL with its text. gRPC would answer such a call with
// UNKNOWN, without details and missed by the metrics, and leave a stream hanging whose callback
// threw; in a thread of ours the exception would end the process.
[[nodiscard]] Status without_exceptions(const std::function<Status()>& body);

// "INVALID_ARGUMENT", for metrics labels.
[[nodiscard]] std::string code_name(grpc::StatusCode code);

}  // namespace emoe::server
