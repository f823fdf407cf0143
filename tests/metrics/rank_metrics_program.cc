// Serves /metrics and /sd as a rank does, with a few steps done, until its standard input closes.
// Prints its address.
#include <cstdio>
#include <iostream>
#include <string>

#include "base/clock.h"
#include "metrics/prometheus.h"
#include "worker/report/metrics_probe.h"

int main() {
  using namespace emoe;
  metrics::PrometheusRegistry registry;
  const SystemClock clock;
  // As a rank that waits in its tenth collective: no step ends, and yet the counters move.
  worker::CollectiveCounters counters;
  worker::CollectiveCounters::Totals& all_reduce = counters.totals[0];
  counters.started = 9;
  all_reduce.nanoseconds = 250'000'000;
  worker::MetricsProbe probe(registry, clock, counters, {.job_id = "job-1", .expert_tokens = true});
  std::string address;
  // As the coordinator's /sd has it.
  const auto discovery = [&address] {
    return R"([{"targets":[")" + address + R"("],"labels":{"job_id":"job-1","rank":"0"}}])";
  };
  const auto exposer =
      metrics::HttpExposer::start(registry, {.service_discovery = discovery, .before_scrape = [&] {
                                               all_reduce.bytes += 4096;
                                               probe.refresh();
                                             }});
  if (!exposer.ok()) {
    std::cerr << exposer.status() << "\n";
    return 1;
  }
  address = (*exposer)->address();
  probe.on(worker::PlanRecord{10, 0});
  for (int64_t step = 0; step < 4; ++step) {
    worker::StepRecord record;
    record.step = step;
    record.loss = 2.5;
    record.tokens = 100;
    record.target_tokens = 60;
    record.seconds = 0.3;
    record.flops = 1e9;
    record.phase_seconds = {{worker::Phase::forward, 0.125}};
    probe.on(record);
  }
  probe.on(worker::CheckpointRecord{4, "step_00000004", 1000, 0.5});
  probe.on(worker::ExpertLoad{
      .layer = 2, .load_cv = 0.5, .max_over_mean = 1.5, .dead = 1, .selections = {5, 0, 7}});
  std::cout << address << std::endl;
  std::cin.get();
  return 0;
}
