#include <chrono>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <civetweb.h>
#include <netdb.h>
#include <sys/socket.h>

#include "base/file.h"
#include "base/log.h"
#include "metrics/prometheus.h"
#include "metrics/tls_server.h"

namespace emoe::metrics {
namespace {

constexpr const char* kTextFormat = "text/plain; version=0.0.4; charset=utf-8";

struct Address {
  std::string host;  // an IPv6 address keeps its brackets
  int port = 0;
};

Result<Address> parse_address(const std::string& listen) {
  const auto colon = listen.rfind(':');
  Address address;
  if (colon == std::string::npos || colon == 0 ||
      !absl::SimpleAtoi(listen.substr(colon + 1), &address.port) || address.port < 0 ||
      address.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("\"", listen, "\" is no HOST:PORT with a port from 0 to 65535"));
  }
  address.host = listen.substr(0, colon);
  return address;
}

// One connection, closed at once. civetweb looks at its stop flag only when its accept loop wakes,
// every two seconds, and the end of a rank or of the coordinator should not wait for that.
void knock(const Address& address) {
  std::string host = address.host;
  if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (::getaddrinfo(host.c_str(), std::to_string(address.port).c_str(), &hints, &found) != 0) {
    return;
  }
  const FileDescriptor fd(
      ::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (fd.valid()) (void)::connect(fd.get(), found->ai_addr, found->ai_addrlen);
  ::freeaddrinfo(found);
}

// Stops the server, waking its accept loop until it has noticed.
void stop_server(mg_context* server, const Address& address) {
  const std::jthread waker([&address](const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      knock(address);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  mg_stop(server);
}

Status cannot_serve(const std::string& listen, const std::string& why) {
  return absl::UnavailableError(
      absl::StrCat("cannot serve metrics on ", listen,
                   " (is the port in use? choose another, or port 0 for a free one): ", why));
}

int reply(mg_connection* connection, int code, const std::string& type, const std::string& body) {
  const char* words = code == 200   ? " OK"
                      : code == 503 ? " Service Unavailable"
                                    : " Internal Server Error";
  const std::string head =
      absl::StrCat("HTTP/1.1 ", code, words, "\r\nContent-Type: ", type,
                   "\r\nContent-Length: ", body.size(), "\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  mg_write(connection, body.data(), body.size());
  return code;
}

}  // namespace

struct HttpExposer::State {
  State(const PrometheusRegistry& source, Config given)
      : registry(source), config(std::move(given)) {}
  const PrometheusRegistry& registry;
  const Config config;
  Address address;
  std::mutex error_mutex;
  std::string error;  // what civetweb said last
  mg_context* server = nullptr;
  std::unique_ptr<TlsServer> tls_server;  // in its place, with `tls`

  ~State() {
    if (server != nullptr) stop_server(server, address);
  }

  static int on_metrics(mg_connection* connection, void* self) {
    return answer(connection, kTextFormat, [state = static_cast<State*>(self)] {
      if (state->config.before_scrape) state->config.before_scrape();
      return state->registry.text();
    });
  }
  static int on_service_discovery(mg_connection* connection, void* self) {
    return answer(connection, "application/json",
                  [self] { return static_cast<State*>(self)->config.service_discovery(); });
  }
  static int on_health(mg_connection* connection, void* /*self*/) {
    return reply(connection, 200, "text/plain", "ok\n");
  }

  static int on_readiness(mg_connection* connection, void* self) {
    const auto [code, type, body] = static_cast<State*>(self)->readiness();
    return reply(connection, code, type, body);
  }

  // Whoever keeps this process alive asks /healthz, whoever sends it work asks this.
  [[nodiscard]] TlsServer::Answer readiness() const {
    const std::string reason = config.not_ready ? config.not_ready() : "";
    if (reason.empty()) return {200, "text/plain", "ok\n"};
    return {503, "text/plain", reason + "\n"};
  }

  Status start_tls(const Address& wanted) {
    const std::string& host = wanted.host;
    const bool bracketed = host.starts_with('[') && host.ends_with(']');
    auto started =
        TlsServer::start({.host = bracketed ? host.substr(1, host.size() - 2) : host,
                          .port = wanted.port,
                          .tls = config.tls,
                          .answer = [this](const std::string& path) { return get(path); }});
    if (!started.ok()) return cannot_serve(config.listen, std::string(started.status().message()));
    tls_server = *std::move(started);
    address = {wanted.host, tls_server->port()};
    return ok_status();
  }
  TlsServer::Answer get(const std::string& path) const {
    if (path == "/metrics") {
      if (config.before_scrape) config.before_scrape();
      return {200, kTextFormat, registry.text()};
    }
    if (path == "/healthz") return {200, "text/plain", "ok\n"};
    if (path == "/readyz") return readiness();
    if (path == "/sd" && config.service_discovery) {
      return {200, "application/json", config.service_discovery()};
    }
    return {404, "text/plain", "there is /metrics, /healthz, /readyz and, of a coordinator, /sd\n"};
  }

  // An exception must not pass through civetweb's C frames.
  template <typename Body>
  static int answer(mg_connection* connection, const std::string& type, const Body& body) {
    try {
      return reply(connection, 200, type, body());
    } catch (const std::exception& error) {
      log_error("metrics server: %s", error.what());
      return reply(connection, 500, "text/plain", "internal error\n");
    }
  }

  static int on_log(const mg_connection* connection, const char* message) {
    auto* self = static_cast<State*>(mg_get_user_data(mg_get_context(connection)));
    if (self == nullptr) return 0;
    const std::lock_guard lock(self->error_mutex);
    self->error = message;
    return 1;
  }
};

HttpExposer::HttpExposer(std::unique_ptr<State> state) : state_(std::move(state)) {}
HttpExposer::~HttpExposer() = default;
std::string HttpExposer::address() const {
  return absl::StrCat(state_->address.host, ":", state_->address.port);
}

Result<std::unique_ptr<HttpExposer>> HttpExposer::start(const PrometheusRegistry& registry,
                                                        Config config) {
  EMOE_ASSIGN_OR_RETURN(const Address wanted, parse_address(config.listen));
  auto state = std::make_unique<State>(registry, std::move(config));
  const std::string& listen = state->config.listen;
  if (state->config.tls) {
    EMOE_RETURN_IF_ERROR(state->start_tls(wanted));
    return std::unique_ptr<HttpExposer>(new HttpExposer(std::move(state)));
  }
  // Two threads: Prometheus and a person with curl. Without keep-alive a scraper holds none of
  // them, nor does for long who connects and says nothing.
  const char* options[] = {
      "listening_ports",    listen.c_str(), "num_threads", "2", "enable_keep_alive", "no",
      "request_timeout_ms", "10000",        nullptr};
  mg_callbacks callbacks{};
  callbacks.log_message = &State::on_log;
  mg_init_library(MG_FEATURES_DEFAULT);
  state->server = mg_start(&callbacks, state.get(), options);
  if (state->server == nullptr) {
    return cannot_serve(listen, state->error);
  }
  mg_server_port port{};
  if (mg_get_server_ports(state->server, 1, &port) != 1) {
    return absl::InternalError("the metrics server does not tell its port");
  }
  state->address = {wanted.host, port.port};
  mg_set_request_handler(state->server, "/metrics$", &State::on_metrics, state.get());
  mg_set_request_handler(state->server, "/healthz$", &State::on_health, state.get());
  mg_set_request_handler(state->server, "/readyz$", &State::on_readiness, state.get());
  if (state->config.service_discovery) {
    mg_set_request_handler(state->server, "/sd$", &State::on_service_discovery, state.get());
  }
  return std::unique_ptr<HttpExposer>(new HttpExposer(std::move(state)));
}

}  // namespace emoe::metrics
