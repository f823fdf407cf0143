#pragma once

#include <memory>
#include <thread>
#include <vector>

#include <grpcpp/completion_queue.h>
#include <grpcpp/server_builder.h>

#include "server/rpc/fine_tuning_handler.h"

namespace emoe::server {

// The calls of CreateJob: they come through a completion queue of their own, so that those that wait for a
// commit hold no thread. Requests and answers go through as bytes, since what is answered is what was stored.
class CreateJobCalls {
 public:
  // Adds its queue to `builder`; `handler` is a service of that server, and outlives this.
  CreateJobCalls(FineTuningHandler& handler, grpc::ServerBuilder& builder);
  // The server has been shut down, or was never started.
  ~CreateJobCalls();
  // Once the server runs: takes calls from now on.
  void start();

 private:
  class OneCall;
  void serve();

  FineTuningHandler& handler_;
  const std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::vector<std::jthread> threads_;
};

}  // namespace emoe::server
