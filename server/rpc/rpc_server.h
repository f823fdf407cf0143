#pragma once

#include <memory>
#include <string>

#include "base/status.h"
#include "server/rpc/fine_tuning_handler.h"
#include "server/rpc/worker_control_handler.h"

namespace grpc {
class Server;
}

namespace emoe::server {

// The gRPC server: both services, health checking and reflection on one port. Build it after the
// controller has recovered; its destructor shuts down.
class RpcServer {
 public:
  struct Config {
    std::string listen = "127.0.0.1:0";  // port 0: a free one, see address()
    AdmissionConfig admission;
    FineTuningHandler::Info info;
    WatchHub::Config watch;
    int max_threads = 32;  // for unary calls; more of them at once get RESOURCE_EXHAUSTED
  };

  // UNAVAILABLE when the address cannot be bound ("… is in use").
  [[nodiscard]] static Result<std::unique_ptr<RpcServer>> start(Config config,
                                                                Controller& controller,
                                                                JobStore& store, const Clock& clock,
                                                                CoordinatorProbe& probe);
  ~RpcServer();

  [[nodiscard]] std::string address() const { return address_; }  // "127.0.0.1:7070"

  // Graceful end: health says NOT_SERVING, new calls and open streams get UNAVAILABLE / DRAINING,
  // calls under way may finish for two seconds. Ranks keep training and reconnect elsewhere or
  // later. May be called twice.
  void shutdown();

 private:
  RpcServer(const Config& config, Controller& controller, JobStore& store, const Clock& clock,
            CoordinatorProbe& probe);
  [[nodiscard]] Status listen(const Config& config);

  Controller& controller_;
  WatchHub watches_;
  FineTuningHandler fine_tuning_;
  WorkerControlHandler worker_control_;
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace emoe::server
