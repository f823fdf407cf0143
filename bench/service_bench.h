#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

// What bench/service.py runs. Each subcommand prints one line of JSON and ends the program.
namespace emoe::bench {

// Milliseconds, sorted on demand.
struct Latencies {
  std::vector<double> milliseconds;
  [[nodiscard]] double percentile(double part) {
    if (milliseconds.empty()) return 0;
    const auto place = static_cast<size_t>(part * static_cast<double>(milliseconds.size() - 1));
    const auto at = milliseconds.begin() + static_cast<std::ptrdiff_t>(place);
    std::nth_element(milliseconds.begin(), at, milliseconds.end());
    return *at;
  }
  void add(const Latencies& other) {
    milliseconds.insert(milliseconds.end(), other.milliseconds.begin(), other.milliseconds.end());
  }
};

inline void put(nlohmann::json& json, Latencies& latencies) {
  json["calls"] = latencies.milliseconds.size();
  json["p50_ms"] = latencies.percentile(0.5);
  json["p99_ms"] = latencies.percentile(0.99);
  json["max_ms"] = latencies.percentile(1.0);
}

void add_calls(CLI::App& app);     // echo, load, batch, read
void add_streams(CLI::App& app);   // watch, ranks
void add_database(CLI::App& app);  // commits, fill, queue

}  // namespace emoe::bench
