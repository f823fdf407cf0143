#include "cli/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

namespace emoe::cli {

Client::Client(Options options) : options_(std::move(options)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A coordinator that restarts is back within seconds; a silent one is noticed within a minute.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, options_.proxy ? 1 : 0);
  channel_ =
      grpc::CreateCustomChannel(options_.server, grpc::InsecureChannelCredentials(), arguments);
  stub_ = v1::FineTuning::NewStub(channel_);
}

grpc::Status Client::get_job(const std::string& id, v1::Job& job) {
  v1::GetJobRequest request;
  request.set_id(id);
  return call(&v1::FineTuning::Stub::GetJob, request, job);
}

}  // namespace emoe::cli
