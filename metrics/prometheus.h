#pragma once

#include <functional>
#include <memory>
#include <string>

#include "base/status.h"
#include "metrics/metrics.h"

namespace emoe::metrics {

// Registry kept by prometheus-cpp; text() is the exposition format (version 0.0.4).
class PrometheusRegistry final : public Registry {
 public:
  PrometheusRegistry();
  ~PrometheusRegistry() override;
  [[nodiscard]] std::shared_ptr<Counter> counter(const std::string& name, const std::string& help,
                                                 const Labels& labels) override;
  [[nodiscard]] std::shared_ptr<Gauge> gauge(const std::string& name, const std::string& help,
                                             const Labels& labels) override;
  [[nodiscard]] std::shared_ptr<Histogram> histogram(const std::string& name,
                                                     const std::string& help,
                                                     const std::vector<double>& upper_bounds,
                                                     const Labels& labels) override;
  [[nodiscard]] std::string text() const;

 private:
  struct State;
  std::shared_ptr<State> state_;  // handles keep it alive
};

// PEM texts with which a server shows who it is; with a client_ca it asks clients for that, too.
struct ServerTls {
  std::string certificate;
  std::string key;
  std::string client_ca;
  bool operator==(const ServerTls&) const = default;
};

// Paths of PEM files: of the server's certificate and key, and of the authority whose clients alone may
// connect. For ranks, which have no configuration of their own.
inline constexpr char kTlsCertificateVariable[] = "EMOE_METRICS_TLS_CERT";
inline constexpr char kTlsKeyVariable[] = "EMOE_METRICS_TLS_KEY";
inline constexpr char kTlsClientCaVariable[] = "EMOE_METRICS_TLS_CLIENT_CA";

// What these name, for HttpExposer::Config::tls: read for each connection, so that new files count at once.
// Empty where none is set. INVALID_ARGUMENT where one of the first two is missing, an error of read_file()
// where a file cannot be read.
[[nodiscard]] Result<std::function<ServerTls()>> tls_of_environment();

// Serves GET /metrics, /healthz (the process is alive), /readyz (it also takes work; else 503) and,
// where given, /sd (Prometheus http_sd JSON) on its own small HTTP server.
class HttpExposer {
 public:
  struct Config {
    std::string listen = "127.0.0.1:0";  // port 0: a free one, see address()
    // Body of /sd; empty: no /sd. Called on server threads.
    std::function<std::string()> service_discovery;
    // Why /readyz says no, in a word; empty: it says yes. Called on server threads; null: always yes.
    std::function<std::string()> not_ready;
    // Called before each answer to /metrics, on several server threads at once; may be empty. For
    // values that are read on a scrape instead of being kept up to date.
    std::function<void()> before_scrape;
    // Serves by TLS (1.2 or newer) with what this gives, asked for each connection; empty: in clear.
    std::function<ServerTls()> tls;
  };
  // UNAVAILABLE when the address cannot be bound ("… is in use"), INVALID_ARGUMENT when it does not
  // parse. `registry` and what the functions use outlive the exposer.
  [[nodiscard]] static Result<std::unique_ptr<HttpExposer>> start(
      const PrometheusRegistry& registry, Config config);
  ~HttpExposer();
  [[nodiscard]] std::string address() const;  // "127.0.0.1:43117"

 private:
  struct State;
  explicit HttpExposer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace emoe::metrics
