#include "launcher/kubernetes/api_client.h"

#include <algorithm>
#include <cctype>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "base/utf8.h"

namespace emoe::launcher {
namespace {

using namespace std::chrono_literals;
using nlohmann::json;

constexpr std::chrono::milliseconds kFirstPause = 500ms;
constexpr std::chrono::milliseconds kLongestPause = 30s;
constexpr std::chrono::seconds kLongestWish = 300s;  // of the server's own
constexpr size_t kMostBytesOfWords = 1000;

// What the server says of an error: a Status object, or text where it is no API that answers.
std::string words_of(const json& status, const std::string& body) {
  std::string words = status.is_object() ? status.value("message", "") : "";
  if (words.empty() && !status.is_object()) words = body.substr(0, body.find('\n'));
  return shorten_utf8(to_valid_utf8(words), kMostBytesOfWords);
}

Status not_found(const std::string& words, const json& status, const std::string& path) {
  // The API's own word has the object's name in it.
  const bool collection = status.is_discarded() || !status.is_object() ||
                          words.find("could not find the requested resource") != std::string::npos;
  if (collection && path.find("/mpijobs") != std::string::npos) {
    return absl::NotFoundError(
        absl::StrCat("the cluster has no MPIJobs (kubeflow.org/v2beta1): install the MPI operator; "
                     "the API server says: ",
                     words));
  }
  return absl::NotFoundError(words);
}

}  // namespace

bool is_refusal(const Status& status) {
  switch (status.code()) {
    case StatusCode::kPermissionDenied:
    case StatusCode::kNotFound:
    case StatusCode::kInvalidArgument:
    case StatusCode::kFailedPrecondition:
      return true;
    default:
      return false;
  }
}

std::string url_encoded(const std::string& text) {
  std::string encoded;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    const bool plain = std::isalnum(byte) != 0 || c == '-' || c == '_' || c == '.' || c == '~';
    encoded += plain ? std::string(1, c) : absl::StrFormat("%%%02X", byte);
  }
  return encoded;
}

std::string ApiClient::mpi_jobs(const std::string& name) const {
  return absl::StrCat("/apis/kubeflow.org/v2beta1/namespaces/", access_.cluster_namespace,
                      "/mpijobs", name.empty() ? "" : "/", name);
}

std::string ApiClient::pods(const std::string& name) const {
  return absl::StrCat("/api/v1/namespaces/", access_.cluster_namespace, "/pods",
                      name.empty() ? "" : "/", name);
}

std::chrono::nanoseconds ApiClient::pause() const {
  const std::lock_guard lock(mutex_);
  if (!not_before_) return 0ns;
  return std::max<std::chrono::nanoseconds>(*not_before_ - clock_.steady_now(), 0ns);
}

Result<std::string> ApiClient::token(bool again) {
  const std::lock_guard lock(mutex_);
  if (!token_ || again) {
    EMOE_ASSIGN_OR_RETURN(token_, access_.token.read());
  }
  return *token_;
}

void ApiClient::note(const Result<HttpAnswer>& answer) {
  const bool busy = answer.ok() && (answer->status == 429 || answer->status >= 500);
  // A certificate that is wrong is no silence.
  const bool silent = !answer.ok() && answer.status().code() != StatusCode::kCancelled &&
                      answer.status().code() != StatusCode::kFailedPrecondition;
  const std::lock_guard lock(mutex_);
  if (!busy && !silent) {
    if (answer.ok()) silences_ = 0;
    return;
  }
  std::chrono::nanoseconds pause =
      std::min(kFirstPause * (1 << std::min(silences_, 6)), kLongestPause);
  if (answer.ok() && answer->retry_after && answer->retry_after->count() > 0) {
    pause = std::min(*answer->retry_after, kLongestWish);
  }
  ++silences_;
  not_before_ = clock_.steady_now() + pause;
}

Result<HttpAnswer> ApiClient::send(HttpRequest request, bool at_once, const std::stop_token& stop) {
  if (!at_once && pause() > 0ns) {
    return absl::UnavailableError("the API server is not asked before it had its pause");
  }
  EMOE_ASSIGN_OR_RETURN(request.token, token(false));
  auto answer = transport_.send(request, stop);
  if (answer.ok() && answer->status == 401 && access_.token.given()) {
    EMOE_ASSIGN_OR_RETURN(request.token, token(true));  // it may have been rotated
    answer = transport_.send(request, stop);
  }
  note(answer);
  if (!answer.ok() || answer->status / 100 == 2) return answer;
  return refusal(*answer, request.path);
}

Status ApiClient::refusal(const HttpAnswer& answer, const std::string& path) const {
  const json status = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  const std::string words = words_of(status, answer.body);
  const std::string reason = status.is_object() ? status.value("reason", "") : "";
  const std::string said =
      absl::StrCat("the API server says (", answer.status, "): ", words.empty() ? reason : words);
  switch (answer.status) {
    case 401:
      return absl::UnauthenticatedError(absl::StrCat(
          "the API server does not take ",
          access_.token.given() ? access_.token.named("the token") : "the client certificate",
          ": it is expired, or of another cluster"));
    case 403:
      if (words.find("exceeded quota") != std::string::npos) {
        return absl::ResourceExhaustedError(said);
      }
      return absl::PermissionDeniedError(
          absl::StrCat(words, "; deploy/kubernetes/base/access.yaml has the Role that emoe needs"));
    case 404:
      return not_found(words, status, path);
    case 409:
      return reason == "AlreadyExists" ? absl::AlreadyExistsError(said) : absl::AbortedError(said);
    case 410:
      return absl::OutOfRangeError(said);
    case 429:
      return absl::UnavailableError(said);
    default:
      return answer.status >= 500 ? absl::InternalError(said) : absl::InvalidArgumentError(said);
  }
}

Result<json> ApiClient::call(const std::string& method, const std::string& path, const json& body,
                             bool at_once, const std::stop_token& stop) {
  HttpRequest request{.method = method, .path = path, .limit = limit_};
  if (!body.is_null()) request.body = body.dump();
  EMOE_ASSIGN_OR_RETURN(const HttpAnswer answer, send(std::move(request), at_once, stop));
  json parsed = json::parse(answer.body, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) {
    return absl::AbortedError("the API server's answer is no JSON object");
  }
  return parsed;
}

Status ApiClient::stream(const std::string& path, std::chrono::milliseconds limit,
                         std::function<void(std::string_view)> on_data,
                         const std::stop_token& stop) {
  HttpRequest request{.path = path, .limit = limit, .on_data = std::move(on_data)};
  return send(std::move(request), /*at_once=*/false, stop).status();
}

}  // namespace emoe::launcher
