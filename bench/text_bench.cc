// A data file as a run prepares it: read, rendered, tokenised with its targets and packed; and its ids
// as text again. bench/texts.py times the peer's library beside it.
//
//   text_bench --model FOLDER --data rows.jsonl [--format alpaca] [--threads 1] [--rounds 2]
//
// Prints a JSON line: the best seconds of the rounds, and how much it was.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>

#include <CLI/CLI.hpp>

#include "base/parallel.h"
#include "format/tokenizer.h"
#include "text/dataset.h"
#include "worker/train/batch_plan.h"

namespace emoe::worker {
namespace {

struct Arguments {
  std::string model;
  std::string data;
  std::string format = "alpaca";
  int threads = 1;
  int rounds = 2;
};

double best_seconds(int rounds, const std::function<void()>& work) {
  double best = std::numeric_limits<double>::max();
  for (int round = 0; round < rounds; ++round) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - start;
    best = std::min(best, spent.count());
  }
  return best;
}

int bench(const Arguments& arguments) {
  const auto tokenizer = load_tokenizer(arguments.model);
  if (!tokenizer.ok()) {
    std::fprintf(stderr, "%s\n", std::string(tokenizer.status().message()).c_str());
    return 1;
  }
  DatasetOptions options;
  options.files = {{arguments.data}};
  options.format = arguments.format;
  options.threads = arguments.threads;
  Result<Dataset> dataset = absl::UnknownError("no round");
  Result<PackingReport> packing = absl::UnknownError("no round");
  const double seconds = best_seconds(arguments.rounds, [&] {
    dataset = load_dataset(options, **tokenizer);
    if (dataset.ok())
      packing = packing_of(dataset->rows, {.global_batch = 128, .drop_last = false}, {}, 1);
  });
  for (const Status& status : {dataset.status(), packing.status()}) {
    if (status.ok()) continue;
    std::fprintf(stderr, "%s\n", std::string(status.message()).c_str());
    return 1;
  }
  const std::vector<Row>& rows = dataset->rows;
  const double decode_seconds = best_seconds(arguments.rounds, [&] {
    in_parts(arguments.threads, std::ssize(rows), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) (void)(*tokenizer)->decode(rows[i].ids);
    });
  });
  std::printf(
      "{\"rows\": %zu, \"tokens\": %lld, \"seconds\": %.4f, \"decode_seconds\": %.4f, "
      "\"batches\": %lld}\n",
      rows.size(), static_cast<long long>(dataset->report.tokens), seconds, decode_seconds,
      static_cast<long long>(packing->batches));
  return 0;
}

}  // namespace
}  // namespace emoe::worker

int main(int argc, char** argv) {
  emoe::worker::Arguments arguments;
  CLI::App app("Reads, tokenises and packs a data file.");
  app.add_option("--model", arguments.model)->required();
  app.add_option("--data", arguments.data)->required();
  app.add_option("--format", arguments.format);
  app.add_option("--threads", arguments.threads)->check(CLI::PositiveNumber);
  app.add_option("--rounds", arguments.rounds)->check(CLI::PositiveNumber);
  CLI11_PARSE(app, argc, argv);
  return emoe::worker::bench(arguments);
}
