#include "launcher/kubernetes/curl_transport.h"

#include <algorithm>
#include <array>
#include <memory>

#include <absl/strings/str_cat.h>
#include <curl/curl.h>

#include "base/version.h"

namespace emoe::launcher {
namespace {

constexpr size_t kMostBytesOfAnswer = 256 << 20;
constexpr long kConnectMilliseconds = 10'000;

struct FreeMulti {
  void operator()(CURLM* multi) const { curl_multi_cleanup(multi); }
};
struct FreeEasy {
  void operator()(CURL* easy) const { curl_easy_cleanup(easy); }
};
struct FreeList {
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// One exchange, from its options to its answer.
class Exchange {
 public:
  Exchange(const ClusterAccess& access, const HttpRequest& request)
      : access_(access),
        request_(request),
        multi_(curl_multi_init()),
        easy_(curl_easy_init()),
        url_(access.server + request.path) {}
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  ~Exchange() {
    if (added_) curl_multi_remove_handle(multi_.get(), easy_.get());
  }

  Status prepare() {
    if (!multi_ || !easy_) return absl::ResourceExhaustedError("libcurl: no memory");
    set(CURLOPT_URL, url_.c_str());
    set(CURLOPT_CUSTOMREQUEST, request_.method.c_str());
    set(CURLOPT_NOSIGNAL, 1L);
    set(CURLOPT_PROTOCOLS_STR, "https");
    set(CURLOPT_PROXY, access_.proxy.c_str());  // "": none, not the environment's
    set(CURLOPT_TIMEOUT_MS, static_cast<long>(request_.limit.count()));
    set(CURLOPT_CONNECTTIMEOUT_MS, kConnectMilliseconds);
    // A watch is silent for long; a server that is gone without a word shall be noticed.
    set(CURLOPT_TCP_KEEPALIVE, 1L);
    set(CURLOPT_TCP_KEEPIDLE, 15L);
    set(CURLOPT_TCP_KEEPINTVL, 5L);
    set(CURLOPT_ACCEPT_ENCODING, "");
    set(CURLOPT_ERRORBUFFER, error_.data());
    set(CURLOPT_WRITEFUNCTION, &Exchange::on_body);
    set(CURLOPT_WRITEDATA, this);
    set(CURLOPT_HEADERFUNCTION, &Exchange::on_header);
    set(CURLOPT_HEADERDATA, this);
    if (!request_.body.empty()) {
      set(CURLOPT_POSTFIELDSIZE, static_cast<long>(request_.body.size()));
      set(CURLOPT_POSTFIELDS, request_.body.c_str());
    }
    add_header("Accept: application/json");
    add_header("Content-Type: application/json");
    add_header(absl::StrCat("User-Agent: emoe-coordinator/", version()));
    if (!request_.token.empty()) {
      add_header(absl::StrCat("Authorization: Bearer ", request_.token));
    }
    set(CURLOPT_HTTPHEADER, headers_.get());
    return prepare_tls();
  }

  Result<HttpAnswer> perform(const std::stop_token& stop) {
    curl_multi_add_handle(multi_.get(), easy_.get());
    added_ = true;
    // Wakes the wait below at once.
    const std::stop_callback wake(stop, [this] { curl_multi_wakeup(multi_.get()); });
    int running = 1;
    while (running > 0) {
      if (stop.stop_requested()) return absl::CancelledError("asked to stop");
      CURLMcode code = curl_multi_perform(multi_.get(), &running);
      if (code == CURLM_OK && running > 0) {
        code = curl_multi_poll(multi_.get(), nullptr, 0, 1000, nullptr);
      }
      if (code != CURLM_OK) return absl::InternalError(curl_multi_strerror(code));
    }
    int left = 0;
    const CURLMsg* message = curl_multi_info_read(multi_.get(), &left);
    const CURLcode result = message == nullptr ? CURLE_RECV_ERROR : message->data.result;
    if (result != CURLE_OK) return failure(result);
    answer_.status = status_code();
    return std::move(answer_);
  }

 private:
  template <typename T>
  void set(CURLoption option, T value) {
    curl_easy_setopt(easy_.get(), option, value);
  }

  void add_header(const std::string& line) {
    headers_.reset(curl_slist_append(headers_.release(), line.c_str()));
  }

  Status prepare_tls() {
    set(CURLOPT_SSL_VERIFYPEER, 1L);
    set(CURLOPT_SSL_VERIFYHOST, 2L);
    set(CURLOPT_SSLVERSION, static_cast<long>(CURL_SSLVERSION_TLSv1_2));
    if (access_.ca.given()) {
      EMOE_RETURN_IF_ERROR(set_blob(CURLOPT_CAINFO_BLOB, access_.ca));
      curl_easy_setopt(easy_.get(), CURLOPT_CAPATH, nullptr);  // not the system's CAs as well
    }
    if (access_.certificate.given()) {
      EMOE_RETURN_IF_ERROR(set_blob(CURLOPT_SSLCERT_BLOB, access_.certificate));
      EMOE_RETURN_IF_ERROR(set_blob(CURLOPT_SSLKEY_BLOB, access_.key));
    }
    return ok_status();
  }

  Status set_blob(CURLoption option, const TextSource& source) {
    EMOE_ASSIGN_OR_RETURN(std::string text, source.read());
    const curl_blob blob{text.data(), text.size(), CURL_BLOB_COPY};
    set(option, &blob);
    return ok_status();
  }

  [[nodiscard]] int status_code() const {
    long code = 0;
    curl_easy_getinfo(easy_.get(), CURLINFO_RESPONSE_CODE, &code);
    return static_cast<int>(code);
  }

  [[nodiscard]] Status failure(CURLcode code) const {
    const std::string words = error_[0] != '\0' ? error_.data() : curl_easy_strerror(code);
    const std::string message = absl::StrCat("API server ", access_.server, ": ", words);
    if (is_about_our_certificate(code, words)) {
      return absl::FailedPreconditionError(absl::StrCat(
          "the API server ", access_.server,
          access_.certificate.given()
              ? " does not take the client certificate: it is of another authority, expired or "
                "revoked"
              : " wants a client certificate, and none is given: name one in a kubeconfig",
          " (", words, ")"));
    }
    switch (code) {
      case CURLE_COULDNT_RESOLVE_PROXY:
      case CURLE_COULDNT_RESOLVE_HOST:
      case CURLE_COULDNT_CONNECT:
      case CURLE_SSL_CONNECT_ERROR:
        return absl::UnavailableError(message);
      case CURLE_PEER_FAILED_VERIFICATION:
      case CURLE_SSL_CACERT_BADFILE:
      case CURLE_SSL_CERTPROBLEM:
      case CURLE_URL_MALFORMAT:
        return absl::FailedPreconditionError(message);
      default:
        return absl::AbortedError(message);
    }
  }

  // The server says so by an alert of TLS: in the handshake, or since TLS 1.3 behind it.
  static bool is_about_our_certificate(CURLcode code, const std::string& words) {
    if (code == CURLE_SSL_CLIENTCERT) return true;
    if (code != CURLE_RECV_ERROR && code != CURLE_SEND_ERROR && code != CURLE_SSL_CONNECT_ERROR) {
      return false;
    }
    // "OpenSSL SSL_read: error:0A000418:SSL routines::tlsv1 alert unknown ca, errno 0"
    constexpr std::array kAlerts{"alert unknown ca",        "alert certificate",
                                 "alert bad certificate",   "alert unsupported certificate",
                                 "alert handshake failure", "alert access denied"};
    return std::ranges::any_of(
        kAlerts, [&](const char* alert) { return words.find(alert) != std::string::npos; });
  }

  static size_t on_body(const char* data, size_t size, size_t count, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    const size_t bytes = size * count;
    if (exchange.request_.on_data && exchange.status_code() / 100 == 2) {
      exchange.request_.on_data({data, bytes});
      return bytes;
    }
    if (exchange.answer_.body.size() + bytes > kMostBytesOfAnswer) return 0;  // ends it
    exchange.answer_.body.append(data, bytes);
    return bytes;
  }

  static size_t on_header(const char* data, size_t size, size_t count, void* self) {
    auto& exchange = *static_cast<Exchange*>(self);
    const std::string line(data, size * count);
    constexpr std::string_view kName = "retry-after:";
    std::string name = line.substr(0, kName.size());
    for (char& c : name) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (name == kName) {
      // A date instead of a number reads as 0: asked again after our own pause.
      exchange.answer_.retry_after =
          std::chrono::seconds(std::strtol(line.c_str() + kName.size(), nullptr, 10));
    }
    return size * count;
  }

  const ClusterAccess& access_;
  const HttpRequest& request_;
  std::unique_ptr<CURLM, FreeMulti> multi_;
  std::unique_ptr<CURL, FreeEasy> easy_;
  std::unique_ptr<curl_slist, FreeList> headers_;
  const std::string url_;
  std::array<char, CURL_ERROR_SIZE> error_{};
  bool added_ = false;
  HttpAnswer answer_;
};

}  // namespace

CurlTransport::CurlTransport(ClusterAccess access) : access_(std::move(access)) {
  static const CURLcode once = curl_global_init(CURL_GLOBAL_DEFAULT);
  (void)once;
}

Result<HttpAnswer> CurlTransport::send(const HttpRequest& request, const std::stop_token& stop) {
  Exchange exchange(access_, request);
  EMOE_RETURN_IF_ERROR(exchange.prepare());
  return exchange.perform(stop);
}

}  // namespace emoe::launcher
