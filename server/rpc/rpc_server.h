#pragma once

#include <chrono>
#include <future>
#include <memory>
#include <string>

#include "base/status.h"
#include "server/rpc/call_guard.h"
#include "server/rpc/create_job_calls.h"
#include "server/rpc/fine_tuning_handler.h"
#include "server/rpc/worker_control_handler.h"
#include "server/security/certificate_files.h"

namespace grpc {
class Server;
class ServerCredentials;
}  // namespace grpc

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
    std::chrono::milliseconds shutdown_limit{15'000};
    CallGuard::Config guard = {};
    CertificateFiles* certificates = nullptr;  // null: no TLS; outlives the server
    bool reflection = true;
    int message_bytes = 0;       // of a request; 0: gRPC's own limit, 4 MiB
    int streams_per_client = 0;  // calls that a connection may have open; 0: no limit
    // A connection that is silent for so long is asked whether it lives, and closed when it does not say so;
    // one that is not set up within that time is closed.
    std::chrono::milliseconds keepalive{30'000};
  };

  // UNAVAILABLE when the address cannot be bound ("… is in use").
  [[nodiscard]] static Result<std::unique_ptr<RpcServer>> start(const Config& config,
                                                                Controller& controller,
                                                                JobStore& store, const Clock& clock,
                                                                CoordinatorProbe& probe);
  ~RpcServer();  // waits for every call, however long

  [[nodiscard]] std::string address() const { return address_; }  // "127.0.0.1:7070"

  // Announces the shutdown: health says NOT_SERVING, new calls and open streams get
  // UNAVAILABLE / DRAINING. The port stays open, so that callers get this answer. Ranks keep
  // training and reconnect later.
  void drain();
  // Drains, closes the port, and cancels calls that still run after two seconds.
  // DEADLINE_EXCEEDED when one still runs after shutdown_limit (it cannot be interrupted). May be
  // called twice.
  [[nodiscard]] Status shutdown();

 private:
  RpcServer(const Config& config, Controller& controller, JobStore& store, const Clock& clock,
            CoordinatorProbe& probe);
  [[nodiscard]] Status listen(const Config& config);

  void drop_server();

  const std::chrono::milliseconds shutdown_limit_;
  Controller& controller_;
  WatchHub watches_;
  CallGuard guard_;
  FineTuningHandler fine_tuning_;
  WorkerControlHandler worker_control_;
  std::string address_;
  // gRPC's core asks them for certificates as long as there is a server.
  std::shared_ptr<grpc::ServerCredentials> credentials_;
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<CreateJobCalls> create_job_calls_;  // end before the server does
  std::future<void> closing_;  // gRPC's own shutdown, which waits for every call
};

}  // namespace emoe::server
