// Balanced k-means of one layer's gate rows (goal P5).
//
//   kmeans_bench [--rows 11008 --clusters 64 --width 4096 --signal 0.3 --restarts 1 --threads 1]
//                [--keep FOLDER] [--plain]
//
// Rows of length 1 around as many directions as there are clusters: `signal` times the direction
// and noise of the same size as it, so that 0 is noise alone. Restarts begin with rows drawn evenly,
// which FOLDER gets together with the rows, so that a peer can begin alike; --plain estimates no
// costs. Prints one JSON line: the seconds from rows and starts to labels and inertia.
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "worker/emoe/balanced_kmeans.h"

namespace emoe::worker {
namespace {

struct Arguments {
  int64_t rows = 11008;
  int32_t clusters = 64;
  int64_t width = 4096;
  float signal = 0.3F;
  int32_t restarts = 1;
  int threads = 1;
  std::filesystem::path keep;
  bool plain = false;
};

std::vector<float> clustered_rows(const Arguments& arguments) {
  std::mt19937_64 random(7);
  std::normal_distribution<float> normal;
  const auto width = static_cast<size_t>(arguments.width);
  std::vector<float> directions(static_cast<size_t>(arguments.clusters) * width);
  for (float& value : directions) value = normal(random);
  std::vector<float> rows;
  rows.reserve(static_cast<size_t>(arguments.rows) * width);
  for (int64_t i = 0; i < arguments.rows; ++i) {
    const float* direction = &directions[static_cast<size_t>(i % arguments.clusters) * width];
    double square = 0.0;
    for (size_t k = 0; k < width; ++k) {
      rows.push_back(arguments.signal * direction[k] + normal(random));
      square += static_cast<double>(rows.back()) * static_cast<double>(rows.back());
    }
    const auto scale = static_cast<float>(1.0 / std::sqrt(square));
    for (size_t k = rows.size() - width; k < rows.size(); ++k) rows[k] *= scale;
  }
  return rows;
}

std::vector<std::vector<int64_t>> starts_of(const Arguments& arguments) {
  std::mt19937_64 random(1);
  std::vector<std::vector<int64_t>> starts;
  for (int32_t r = 0; r < arguments.restarts; ++r) {
    std::vector<int64_t> all(static_cast<size_t>(arguments.rows));
    for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<int64_t>(i);
    std::shuffle(all.begin(), all.end(), random);
    starts.emplace_back(all.begin(), all.begin() + arguments.clusters);
  }
  return starts;
}

void keep(const std::filesystem::path& folder, const std::vector<float>& rows,
          const std::vector<std::vector<int64_t>>& starts) {
  std::ofstream(folder / "rows.f32", std::ios::binary)
      .write(reinterpret_cast<const char*>(rows.data()),
             static_cast<std::streamsize>(rows.size() * sizeof(float)));
  std::ofstream text(folder / "starts.txt");
  for (const auto& start : starts) {
    for (const int64_t row : start) text << row << ' ';
    text << '\n';
  }
}

void bench(const Arguments& arguments) {
  const std::vector<float> rows = clustered_rows(arguments);
  KmeansOptions options{.clusters = arguments.clusters,
                        .restarts = arguments.restarts,
                        .threads = arguments.threads,
                        .estimates = !arguments.plain,
                        .starts = starts_of(arguments)};
  if (!arguments.keep.empty()) keep(arguments.keep, rows, options.starts);
  int64_t iterations = 0;
  options.on_restart = [&](const KmeansResult& result) { iterations += result.iterations; };
  const auto start = std::chrono::steady_clock::now();
  const KmeansResult result = balanced_kmeans(rows, arguments.rows, arguments.width, options);
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  std::printf(
      "{\"rows\": %lld, \"clusters\": %d, \"width\": %lld, \"restarts\": %d, \"threads\": %d, "
      "\"seconds\": %.4f, \"iterations\": %lld, \"inertia\": %.9g}\n",
      static_cast<long long>(arguments.rows), arguments.clusters,
      static_cast<long long>(arguments.width), arguments.restarts, arguments.threads,
      seconds.count(), static_cast<long long>(iterations), result.inertia);
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  emoe::worker::Arguments arguments;
  CLI::App app("Balanced k-means of one layer's gate rows.");
  app.add_option("--rows", arguments.rows)->check(CLI::PositiveNumber);
  app.add_option("--clusters", arguments.clusters)->check(CLI::PositiveNumber);
  app.add_option("--width", arguments.width)->check(CLI::PositiveNumber);
  app.add_option("--signal", arguments.signal);
  app.add_option("--restarts", arguments.restarts)->check(CLI::PositiveNumber);
  app.add_option("--threads", arguments.threads)->check(CLI::PositiveNumber);
  app.add_option("--keep", arguments.keep)->check(CLI::ExistingDirectory);
  app.add_flag("--plain", arguments.plain);
  CLI11_PARSE(app, argc, argv);
  emoe::worker::bench(arguments);
  return 0;
}
