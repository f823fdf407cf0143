#include "server/rpc/rpc_server.h"

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>

#include <absl/strings/str_cat.h>
#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/impl/server_builder_option.h>
#include <grpcpp/impl/server_builder_plugin.h>
#include <netdb.h>
#include <sys/socket.h>

#include "base/file.h"
#include "server/rpc/tls_credentials.h"

namespace emoe::server {
namespace {

// gRPC only says that it could not bind; this finds out why.
std::string why_not_bound(const std::string& host, const std::string& port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  if (const int code = ::getaddrinfo(host.c_str(), port.c_str(), &hints, &found); code != 0) {
    return ::gai_strerror(code);
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, ::freeaddrinfo);
  const FileDescriptor socket(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return std::strerror(errno);
  const int yes = 1;
  ::setsockopt(socket.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
  if (::bind(socket.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      ::listen(socket.get(), 1) != 0) {
    return errno == EADDRINUSE ? "the port is in use by another program" : std::strerror(errno);
  }
  return "gRPC refused it";
}

void set_up_plugins() {
  static std::once_flag once;  // both calls set process-wide state of gRPC
  std::call_once(once, [] {
    grpc::EnableDefaultHealthCheckService(true);
    grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  });
}

// Takes out the plugin that every server has which is linked with it.
class NoReflection final : public grpc::ServerBuilderOption {
 public:
  void UpdateArguments(grpc::ChannelArguments* /*arguments*/) override {}
  void UpdatePlugins(std::vector<std::unique_ptr<grpc::ServerBuilderPlugin>>* plugins) override {
    std::erase_if(*plugins, [](const auto& plugin) {
      return plugin->name().find("reflection") != std::string::npos;
    });
  }
};

void set_limits(grpc::ServerBuilder& builder, const RpcServer::Config& config) {
  const auto silence = static_cast<int>(config.keepalive.count());
  // Two coordinators must not share a port, which SO_REUSEPORT would let them.
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, silence);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, std::min(silence, 10'000));
  // From the accept to the end of the handshakes, TLS's and HTTP/2's.
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, silence);
  if (config.streams_per_client > 0) {
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, config.streams_per_client);
  }
  if (config.message_bytes > 0) builder.SetMaxReceiveMessageSize(config.message_bytes);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5'000);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  // A thread that has answered waits for the next call: with fewer pollers most of those that a common
  // commit lets go would end, and a new one be made for the next call.
  builder.SetSyncServerOption(grpc::ServerBuilder::MAX_POLLERS, config.max_threads);
  grpc::ResourceQuota quota("emoe-coordinator");
  quota.SetMaxThreads(config.max_threads);
  builder.SetResourceQuota(quota);
}

}  // namespace

RpcServer::RpcServer(const Config& config, Controller& controller, JobStore& store,
                     const Clock& clock, CoordinatorProbe& probe)
    : shutdown_limit_(config.shutdown_limit),
      controller_(controller),
      watches_(config.watch, store, clock),
      guard_(config.guard, clock),
      fine_tuning_(controller, store, watches_, probe, guard_, config.admission, clock, config.info,
                   config.max_threads),
      worker_control_(
          [&controller](SessionMessage message) { controller.post(std::move(message)); }) {}

Result<std::unique_ptr<RpcServer>> RpcServer::start(const Config& config, Controller& controller,
                                                    JobStore& store, const Clock& clock,
                                                    CoordinatorProbe& probe) {
  auto server = std::unique_ptr<RpcServer>(new RpcServer(config, controller, store, clock, probe));
  EMOE_RETURN_IF_ERROR(server->listen(config));
  controller.set_listener(
      [watches = &server->watches_](const std::string& id) { watches->notify(id); });
  return server;
}

Status RpcServer::listen(const Config& config) {
  const size_t colon = config.listen.rfind(':');
  if (colon == std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat("listen address \"", config.listen, "\" is not HOST:PORT"));
  }
  set_up_plugins();
  grpc::ServerBuilder builder;
  set_limits(builder, config);
  if (!config.reflection) builder.SetOption(std::make_unique<NoReflection>());
  int port = 0;
  credentials_ = config.certificates == nullptr ? grpc::InsecureServerCredentials()
                                                : tls_credentials(*config.certificates);
  builder.AddListeningPort(config.listen, credentials_, &port);
  builder.RegisterService(&fine_tuning_);
  builder.RegisterService(&worker_control_);
  auto create_job_calls = std::make_unique<CreateJobCalls>(fine_tuning_, builder);
  server_ = builder.BuildAndStart();
  const std::string host = config.listen.substr(0, colon);
  if (server_ == nullptr || port == 0) {
    return absl::UnavailableError(
        absl::StrCat("cannot listen on ", config.listen, ": ",
                     why_not_bound(host, config.listen.substr(colon + 1))));
  }
  create_job_calls_ = std::move(create_job_calls);
  create_job_calls_->start();
  address_ = absl::StrCat(host, ":", port);
  if (auto* health = server_->GetHealthCheckService(); health != nullptr) {
    health->SetServingStatus(true);
    health->SetServingStatus("emoe.v1.FineTuning", true);
    health->SetServingStatus("emoe.v1.WorkerControl", true);
  }
  return ok_status();
}

RpcServer::~RpcServer() {
  if (!shutdown().ok()) closing_.wait();
  drop_server();
  controller_.set_listener(nullptr);
}

void RpcServer::drain() {
  if (server_ == nullptr) return;
  if (auto* health = server_->GetHealthCheckService(); health != nullptr) {
    health->SetServingStatus(false);
  }
  fine_tuning_.drain();
  watches_.drain(draining_status());
  worker_control_.drain(draining_status());
}

Status RpcServer::shutdown() {
  if (server_ == nullptr) return ok_status();
  drain();
  if (!closing_.valid()) {
    closing_ = std::async(std::launch::async, [server = server_.get()] {
      server->Shutdown(std::chrono::system_clock::now() + std::chrono::seconds(2));
      server->Wait();
    });
  }
  if (closing_.wait_for(shutdown_limit_) != std::future_status::ready) {
    return absl::DeadlineExceededError(
        absl::StrCat("calls still run ", std::chrono::duration<double>(shutdown_limit_).count(),
                     " s after the shutdown began"));
  }
  drop_server();
  return ok_status();
}

void RpcServer::drop_server() {
  watches_.stop();
  create_job_calls_.reset();
  server_.reset();
}

}  // namespace emoe::server
