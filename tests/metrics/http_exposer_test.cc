#include <atomic>
#include <cstring>
#include <stdexcept>

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include "metrics/prometheus.h"

namespace emoe::metrics {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// One GET over a plain socket: what came back, head and body.
std::string get(const std::string& address, const std::string& path) {
  const auto colon = address.rfind(':');
  sockaddr_in target{};
  target.sin_family = AF_INET;
  target.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &target.sin_addr);
  const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
  if (::connect(fd, reinterpret_cast<sockaddr*>(&target), sizeof target) != 0) {
    ::close(fd);
    return "cannot connect";
  }
  const std::string request = "GET " + path + " HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
  EXPECT_EQ(::write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  std::string answer;
  char buffer[4096];
  for (ssize_t got = 0; (got = ::read(fd, buffer, sizeof buffer)) > 0;) answer.append(buffer, got);
  ::close(fd);
  return answer;
}

TEST(HttpExposer, ServesMetricsDiscoveryAndHealthOnAFreePort) {
  PrometheusRegistry registry;
  const auto gauge = registry.gauge("emoe_step", "Steps.", {{"rank", "0"}});
  gauge->set(12);
  const auto exposer =
      HttpExposer::start(registry, {.service_discovery = [] { return "[{\"targets\":[]}]"; }});
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  const std::string address = (*exposer)->address();
  EXPECT_THAT(address, StartsWith("127.0.0.1:"));
  EXPECT_NE(address, "127.0.0.1:0");

  const std::string metrics = get(address, "/metrics");
  EXPECT_THAT(metrics, StartsWith("HTTP/1.1 200 OK\r\nContent-Type: text/plain; version=0.0.4"));
  EXPECT_THAT(metrics, HasSubstr("emoe_step{rank=\"0\"} 12\n"));
  EXPECT_THAT(get(address, "/sd"), HasSubstr("application/json"));
  EXPECT_THAT(get(address, "/sd"), HasSubstr("\r\n\r\n[{\"targets\":[]}]"));
  EXPECT_THAT(get(address, "/healthz"), HasSubstr("\r\n\r\nok"));
  EXPECT_THAT(get(address, "/etc/passwd"), StartsWith("HTTP/1.1 404"));
  EXPECT_THAT(get(address, "/metrics/x"), StartsWith("HTTP/1.1 404"));
}

TEST(HttpExposer, WhoIsNotReadyIsAliveAllTheSame) {
  PrometheusRegistry registry;
  std::atomic<bool> draining = false;
  const auto exposer =
      HttpExposer::start(registry, {.not_ready = [&] { return draining ? "draining" : ""; }});
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  EXPECT_THAT(get((*exposer)->address(), "/readyz"), StartsWith("HTTP/1.1 200"));
  draining = true;
  EXPECT_THAT(get((*exposer)->address(), "/readyz"), StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(get((*exposer)->address(), "/readyz"), HasSubstr("\r\n\r\ndraining"));
  EXPECT_THAT(get((*exposer)->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

TEST(HttpExposer, AsksForFreshValuesBeforeEachScrape) {
  PrometheusRegistry registry;
  const auto counter = registry.counter("emoe_asked_total", "Scrapes.", {});
  const auto exposer =
      HttpExposer::start(registry, {.before_scrape = [&counter] { counter->increment(); }});
  ASSERT_TRUE(exposer.ok()) << exposer.status();
  EXPECT_THAT(get((*exposer)->address(), "/metrics"), HasSubstr("emoe_asked_total 1\n"));
  EXPECT_THAT(get((*exposer)->address(), "/metrics"), HasSubstr("emoe_asked_total 2\n"));
}

TEST(HttpExposer, APortInUseIsUnavailableAndFreeAgainAfterwards) {
  PrometheusRegistry registry;
  auto first = HttpExposer::start(registry, {});
  ASSERT_TRUE(first.ok()) << first.status();
  const std::string address = (*first)->address();
  const auto second = HttpExposer::start(registry, {.listen = address});
  ASSERT_EQ(second.status().code(), StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(address));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  first->reset();
  EXPECT_TRUE(HttpExposer::start(registry, {.listen = address}).ok());
}

TEST(HttpExposer, RefusesAnAddressThatDoesNotParse) {
  PrometheusRegistry registry;
  for (const std::string listen : {"", "9090", ":9090", "127.0.0.1:", "127.0.0.1:70000", "h:-1"}) {
    EXPECT_EQ(HttpExposer::start(registry, {.listen = listen}).status().code(),
              StatusCode::kInvalidArgument)
        << listen;
  }
}

TEST(HttpExposer, AnExceptionInDiscoveryIsA500) {
  PrometheusRegistry registry;
  const auto exposer = HttpExposer::start(registry, {.service_discovery = []() -> std::string {
                                            throw std::runtime_error("store is closed");
                                          }});
  ASSERT_TRUE(exposer.ok());
  EXPECT_THAT(get((*exposer)->address(), "/sd"), StartsWith("HTTP/1.1 500"));
  EXPECT_THAT(get((*exposer)->address(), "/healthz"), StartsWith("HTTP/1.1 200"));
}

}  // namespace
}  // namespace emoe::metrics
