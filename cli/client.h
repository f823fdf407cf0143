#pragma once

#include <algorithm>
#include <chrono>
#include <memory>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "base/status.h"
#include "emoe/v1/fine_tuning_service.grpc.pb.h"

namespace emoe::cli {

// The coordinator as emoectl talks to it: one channel, a deadline on every call but streams.
// Thread-safe.
class Client {
 public:
  struct Options {
    std::string server = "127.0.0.1:7070";  // HOST:PORT
    std::chrono::duration<double> timeout{30.0};
    bool proxy = false;  // through the HTTP proxy of the environment
    // PEM files: a CA (or the server's own certificate) turns TLS on; the others are for a server that
    // wants to see a certificate, too.
    std::string tls_ca;
    std::string tls_certificate;
    std::string tls_key;
    std::string token_file;  // read for each call: a new token is used at once; empty: none is sent
  };
  // INVALID_ARGUMENT with all that is wrong with the files.
  [[nodiscard]] static Status check_files(const Options& options);

  // Opens no connection yet.
  explicit Client(Options options);

  [[nodiscard]] v1::FineTuning::Stub& stub() { return *stub_; }

  template <typename Request, typename Response>
  using Method = grpc::Status (v1::FineTuning::Stub::*)(grpc::ClientContext*, const Request&,
                                                        Response*);
  template <typename Request, typename Response>
  [[nodiscard]] grpc::Status call(Method<Request, Response> method, const Request& request,
                                  Response& response) {
    grpc::ClientContext context;
    if (const grpc::Status ready = authorize(context); !ready.ok()) return ready;
    context.set_deadline(std::chrono::system_clock::now() +
                         std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout));
    return (*stub_.*method)(&context, request, &response);
  }

  // Adds the token, for calls that are made through stub(). UNAUTHENTICATED where its file cannot be read.
  [[nodiscard]] grpc::Status authorize(grpc::ClientContext& context) const;

  [[nodiscard]] grpc::Status get_job(const std::string& id, v1::Job& job);

  // All pages of a list, of at most request.page_size() each, in one answer; with a `limit` above 0
  // only so many of what `size` counts, and next_page_token is set if there are more.
  template <typename Request, typename Response>
  [[nodiscard]] grpc::Status list(Method<Request, Response> method, Request request,
                                  int (Response::*size)() const, int64_t limit, Response& all) {
    const int64_t largest = request.page_size();
    do {
      const int64_t missing = limit == 0 ? largest : limit - (all.*size)();
      request.set_page_size(static_cast<int32_t>(std::min(largest, missing)));
      Response page;
      const grpc::Status status = call(method, request, page);
      if (!status.ok()) return status;
      all.MergeFrom(page);
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty() && (limit == 0 || (all.*size)() < limit));
    all.set_next_page_token(request.page_token());
    return grpc::Status::OK;
  }

 private:
  Options options_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::FineTuning::Stub> stub_;
};

}  // namespace emoe::cli
