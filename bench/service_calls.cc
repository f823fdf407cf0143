// Unary calls in a loop, and a service that does nothing with them.
#include <atomic>
#include <chrono>
#include <fstream>
#include <functional>
#include <iostream>
#include <iterator>
#include <memory>
#include <stdexcept>
#include <thread>

#include <grpcpp/grpcpp.h>

#include "bench/service_bench.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"

namespace emoe::bench {
namespace {

using Clock = std::chrono::steady_clock;

struct CallOptions {
  std::string server;
  std::string file;  // a serialised message
  int clients = 16;
  int channels = 2;
  int jobs = 1000;
  double seconds = 5;
  double rate = 0;  // calls a second of all clients; 0: as fast as they are answered
  std::string method = "get";
  std::string id;
  std::string order;
  std::string filter;
};

std::string bytes_of(const std::string& file) {
  std::ifstream in(file, std::ios::binary);
  if (!in) throw std::runtime_error("cannot read " + file);
  return {std::istreambuf_iterator<char>(in), {}};
}

template <typename Message>
Message message_of(const std::string& file) {
  Message message;
  if (!message.ParseFromString(bytes_of(file))) throw std::runtime_error(file + " is damaged");
  return message;
}

using EchoService = v1::FineTuning::WithRawMethod_CreateJob<v1::FineTuning::Service>;

// Reads a request and answers it with the bytes of a job, as the coordinator does (CreateJobCalls), and
// nothing else.
class EchoCall {
 public:
  EchoCall(EchoService& service, grpc::ServerCompletionQueue& queue, const std::string& job)
      : service_(service), queue_(queue), job_(job), writer_(&context_) {
    service.RequestCreateJob(&context_, &bytes_, &writer_, &queue, &queue, this);
  }
  void proceed(bool ok) {
    if (answered_ || !ok) {
      delete this;
      return;
    }
    answered_ = true;
    new EchoCall(service_, queue_, job_);
    v1::CreateJobRequest request;
    const grpc::Status read =
        grpc::SerializationTraits<v1::CreateJobRequest>::Deserialize(&bytes_, &request);
    const grpc::Slice slice(job_);
    writer_.Finish(grpc::ByteBuffer(&slice, 1), read, this);
  }

 private:
  EchoService& service_;
  grpc::ServerCompletionQueue& queue_;
  const std::string& job_;
  bool answered_ = false;
  grpc::ServerContext context_;
  grpc::ByteBuffer bytes_;
  grpc::ServerAsyncResponseWriter<grpc::ByteBuffer> writer_;
};

void echo(const CallOptions& options) {
  EchoService service;
  const std::string job = bytes_of(options.file);
  grpc::ServerBuilder builder;
  int port = 0;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetSyncServerOption(grpc::ServerBuilder::NUM_CQS, 1);
  builder.SetSyncServerOption(grpc::ServerBuilder::MIN_POLLERS, 1);
  builder.RegisterService(&service);
  const auto queue = builder.AddCompletionQueue();
  const auto server = builder.BuildAndStart();
  constexpr int kThreads = 2;  // as CreateJobCalls
  constexpr int kAwaited = 16;
  for (int i = 0; i < kAwaited; ++i) new EchoCall(service, *queue, job);
  std::vector<std::jthread> threads;
  for (int i = 0; i < kThreads; ++i) {
    threads.emplace_back([&queue] {
      void* tag = nullptr;
      bool ok = false;
      while (queue->Next(&tag, &ok)) static_cast<EchoCall*>(tag)->proceed(ok);
    });
  }
  std::cout << nlohmann::json{{"port", port}} << std::endl;
  server->Wait();  // until it is killed
}

using Call = std::function<grpc::Status(v1::FineTuning::Stub&, int64_t number)>;

// One client: its calls until the time is over; with a rate each waits for its moment, and what it
// waits behind that counts.
Latencies run_client(v1::FineTuning::Stub& stub, const CallOptions& options, int client,
                     const Call& call, std::atomic<int64_t>& failed) {
  Latencies latencies;
  const auto begin = Clock::now();
  const auto end = begin + std::chrono::duration<double>(options.seconds);
  const auto gap =
      std::chrono::duration<double>(options.rate > 0 ? options.clients / options.rate : 0);
  for (int64_t i = 0;; ++i) {
    auto due = Clock::now();
    if (options.rate > 0) {
      const double turn = static_cast<double>(i) + static_cast<double>(client) / options.clients;
      due = begin + std::chrono::duration_cast<Clock::duration>(gap * turn);
      std::this_thread::sleep_until(due);
    }
    if (due >= end || Clock::now() >= end) return latencies;
    if (!call(stub, i * options.clients + client).ok()) ++failed;
    const std::chrono::duration<double, std::milli> took = Clock::now() - due;
    latencies.milliseconds.push_back(took.count());
  }
}

void run_clients(const CallOptions& options, const Call& call) {
  std::vector<std::unique_ptr<v1::FineTuning::Stub>> stubs;
  for (int i = 0; i < options.channels; ++i) {
    grpc::ChannelArguments own;
    own.SetInt("emoe.bench.channel", i);  // a connection of its own
    stubs.push_back(v1::FineTuning::NewStub(
        grpc::CreateCustomChannel(options.server, grpc::InsecureChannelCredentials(), own)));
  }
  std::atomic<int64_t> failed = 0;
  std::vector<Latencies> of_clients(static_cast<size_t>(options.clients));
  const auto begin = Clock::now();
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < options.clients; ++i) {
      clients.emplace_back([&, i] {
        auto& stub = *stubs[static_cast<size_t>(i % options.channels)];
        of_clients[static_cast<size_t>(i)] = run_client(stub, options, i, call, failed);
      });
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  Latencies all;
  for (const Latencies& each : of_clients) all.add(each);
  nlohmann::json json{{"seconds", seconds}, {"failed", failed.load()}};
  put(json, all);
  json["per_second"] = static_cast<double>(all.milliseconds.size()) / seconds;
  std::cout << json << std::endl;
}

void load(const CallOptions& options) {
  const auto request = message_of<v1::CreateJobRequest>(options.file);
  run_clients(options, [&](v1::FineTuning::Stub& stub, int64_t) {
    grpc::ClientContext context;
    v1::Job job;
    return stub.CreateJob(&context, request, &job);
  });
}

void batch(const CallOptions& options) {
  v1::CreateJobsRequest request;
  const auto one = message_of<v1::CreateJobRequest>(options.file);
  for (int i = 0; i < options.jobs; ++i) *request.add_requests() = one;
  run_clients(options, [&](v1::FineTuning::Stub& stub, int64_t) {
    grpc::ClientContext context;
    v1::CreateJobsResponse jobs;
    return stub.CreateJobs(&context, request, &jobs);
  });
}

void read(const CallOptions& options) {
  run_clients(options, [&](v1::FineTuning::Stub& stub, int64_t) {
    grpc::ClientContext context;
    if (options.method == "get") {
      v1::GetJobRequest request;
      request.set_id(options.id);
      v1::Job job;
      return stub.GetJob(&context, request, &job);
    }
    v1::ListJobsRequest request;
    request.set_order_by(options.order);
    request.set_filter(options.filter);
    v1::ListJobsResponse jobs;
    return stub.ListJobs(&context, request, &jobs);
  });
}

void add_clients(CLI::App& app, CallOptions& options) {
  app.add_option("--server", options.server)->required();
  app.add_option("--clients", options.clients);
  app.add_option("--channels", options.channels);
  app.add_option("--seconds", options.seconds);
  app.add_option("--rate", options.rate);
}

}  // namespace

void add_calls(CLI::App& app) {
  const auto options = std::make_shared<CallOptions>();
  CLI::App* echo_app = app.add_subcommand("echo", "a service that answers CreateJob with --answer");
  echo_app->add_option("--answer", options->file)->required();
  echo_app->callback([options] { echo(*options); });
  CLI::App* load_app = app.add_subcommand("load", "CreateJob in a loop");
  add_clients(*load_app, *options);
  load_app->add_option("--request", options->file)->required();
  load_app->callback([options] { load(*options); });
  CLI::App* batch_app = app.add_subcommand("batch", "CreateJobs in a loop");
  add_clients(*batch_app, *options);
  batch_app->add_option("--request", options->file)->required();
  batch_app->add_option("--jobs", options->jobs);
  batch_app->callback([options] { batch(*options); });
  CLI::App* read_app = app.add_subcommand("read", "GetJob or ListJobs in a loop");
  add_clients(*read_app, *options);
  read_app->add_option("--method", options->method)->check(CLI::IsMember({"get", "list"}));
  read_app->add_option("--id", options->id);
  read_app->add_option("--order-by", options->order);
  read_app->add_option("--filter", options->filter);
  read_app->callback([options] { read(*options); });
}

}  // namespace emoe::bench
