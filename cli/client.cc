#include "cli/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "base/file.h"

namespace emoe::cli {

Result<Client> Client::create(const Options& options) {
  std::string token;
  if (!options.token_file.empty()) {
    auto content = read_file(options.token_file);
    if (!content.ok()) return with_context(content.status(), "token file");
    token = content->substr(0, content->find_first_of("\r\n"));
    if (token.empty()) {
      return absl::InvalidArgumentError("token file " + options.token_file + " is empty");
    }
  }
  return Client(options, std::move(token));
}

Client::Client(Options options, std::string token)
    : options_(std::move(options)), token_(std::move(token)) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  // A coordinator that restarts is back within seconds; a silent one is noticed within a minute.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 200);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 30'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  channel_ =
      grpc::CreateCustomChannel(options_.server, grpc::InsecureChannelCredentials(), arguments);
  stub_ = v1::FineTuning::NewStub(channel_);
}

grpc::Status Client::get_job(const std::string& id, v1::Job& job) {
  v1::GetJobRequest request;
  request.set_id(id);
  return call(&v1::FineTuning::Stub::GetJob, request, job);
}

std::unique_ptr<grpc::ClientContext> Client::context_of_stream() const {
  auto context = std::make_unique<grpc::ClientContext>();
  if (!token_.empty()) context->AddMetadata("authorization", "Bearer " + token_);
  return context;
}

std::unique_ptr<grpc::ClientContext> Client::context_with_deadline() const {
  auto context = context_of_stream();
  const auto timeout =
      std::chrono::duration_cast<std::chrono::system_clock::duration>(options_.timeout);
  context->set_deadline(std::chrono::system_clock::now() + timeout);
  return context;
}

}  // namespace emoe::cli
