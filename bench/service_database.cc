// Raw commits of SQLite, a database with very many jobs, and what the coordinator does with it.
#include <chrono>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <stdexcept>

#include <absl/strings/str_format.h>

#include "bench/service_bench.h"
#include "server/job/job_store.h"
#include "server/scheduler/decision.h"

namespace emoe::bench {
namespace {

using Clock = std::chrono::steady_clock;
using server::JobQueue;
using server::JobRecord;
using server::JobStore;

struct DatabaseOptions {
  std::string folder;
  std::string id;
  int64_t jobs = 1'000'000;
  int bytes = 4096;
  double seconds = 5;
};

double seconds_since(Clock::time_point begin) {
  return std::chrono::duration<double>(Clock::now() - begin).count();
}

template <typename T>
T checked(Result<T> result) {
  if (!result.ok()) throw std::runtime_error(std::string(result.status().message()));
  return *std::move(result);
}

void checked(const Status& status) {
  if (!status.ok()) throw std::runtime_error(std::string(status.message()));
}

// One row of a job's size in each commit, as durable as the coordinator's.
void commits(const DatabaseOptions& options) {
  auto database = checked(server::Database::open(std::filesystem::path(options.folder) / "raw.db",
                                                 server::Database::Mode::read_write));
  checked(
      database->execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"
                        "CREATE TABLE rows(id INTEGER PRIMARY KEY, body BLOB NOT NULL)"));
  const std::string body(static_cast<size_t>(options.bytes), 'x');
  const auto begin = Clock::now();
  int64_t rows = 0;
  for (; seconds_since(begin) < options.seconds; ++rows) {
    server::Transaction transaction(*database);
    checked(transaction.begun());
    checked(server::Statement(*database, "INSERT INTO rows(body) VALUES(?)").bind_blob(body).run());
    checked(transaction.commit());
  }
  const double seconds = seconds_since(begin);
  std::cout << nlohmann::json{{"commits", rows},
                              {"seconds", seconds},
                              {"per_second", static_cast<double>(rows) / seconds}}
            << std::endl;
}

// Copies of a job that is there, as if they had been submitted one after the other.
void fill(const DatabaseOptions& options) {
  const auto store = checked(JobStore::open({.state_dir = options.folder}));
  const JobRecord model = checked(store->job(options.id));
  const int64_t begin = model.job.create_time().seconds();
  constexpr int64_t kCommit = 2000;
  for (int64_t made = 0; made < options.jobs;) {
    std::vector<server::Change> changes;
    for (int64_t i = 0; i < kCommit && made < options.jobs; ++i, ++made) {
      JobRecord record = model;
      record.job.set_id(absl::StrFormat("job-20260101-000000-%012d", made));
      record.job.set_name("copy-" + std::to_string(made % 1000));
      record.job.set_priority(static_cast<int32_t>(made % 3) - 1);
      record.job.mutable_create_time()->set_seconds(begin + 1 + made / 1000);
      record.job.mutable_create_time()->set_nanos(static_cast<int32_t>(made % 1000) * 1'000'000);
      server::Change& change = changes.emplace_back();
      change.job = std::move(record);
    }
    checked(store->commit(changes));
  }
  std::cout << nlohmann::json{{"jobs", options.jobs}} << std::endl;
}

int64_t resident_bytes() {
  std::ifstream status("/proc/self/statm");
  int64_t pages = 0;
  status >> pages >> pages;
  return pages * 4096;
}

// The queue alone: what it takes to load, in memory, and for a decision that starts a job or finds
// that nothing can start.
void queue(const DatabaseOptions& options) {
  const auto store = checked(JobStore::open({.state_dir = options.folder}));
  const int64_t before = resident_bytes();
  const auto begin = Clock::now();
  JobQueue queue;
  std::vector<server::QueuedJob> some;
  checked(store->queued_jobs([&](const server::QueuedRow& row) {
    server::QueuedJob job{
        .id = row.id,
        .needs = {.ranks = row.ranks, .min_ranks = row.min_ranks, .rows = row.batch},
        .priority = row.priority,
        .create_time = row.create_time,
        .not_before = {},
        .full_until = {},
        .seconds = row.seconds};
    queue.put(job);
    if (queue.size() % 1009 == 0) some.push_back(std::move(job));
  }));
  nlohmann::json json{{"jobs", queue.size()}, {"load_seconds", seconds_since(begin)}};
  json["bytes_per_job"] = static_cast<double>(resident_bytes() - before) /
                          static_cast<double>(std::max<size_t>(queue.size(), 1));
  const SteadyTime now = SystemClock().steady_now();
  const server::Pool pool{{.cpus = 8}, {}, ""};
  Latencies decisions;
  Latencies places;
  size_t started = 0;
  for (int i = 0; i < 200; ++i) {
    const auto at = Clock::now();
    const auto decision = server::decide(queue, {}, pool, now);
    decisions.milliseconds.push_back(seconds_since(at) * 1e3);
    started += decision.start.size();
  }
  for (const auto& job : some) {
    const auto at = Clock::now();
    const auto ahead = queue.ahead(place_of(job));
    places.milliseconds.push_back(seconds_since(at) * 1e3);
    if (ahead.jobs < 0) throw std::runtime_error("a place before the first");
  }
  json["started"] = started;
  json["decision_p50_ms"] = decisions.percentile(0.5);
  json["decision_p99_ms"] = decisions.percentile(0.99);
  json["place_p50_ms"] = places.percentile(0.5);
  std::cout << json << std::endl;
}

}  // namespace

void add_database(CLI::App& app) {
  const auto options = std::make_shared<DatabaseOptions>();
  CLI::App* commits_app = app.add_subcommand("commits", "one row and one fsync after the other");
  CLI::App* fill_app = app.add_subcommand("fill", "very many queued jobs");
  CLI::App* queue_app = app.add_subcommand("queue", "the queue in memory");
  for (CLI::App* each : {commits_app, fill_app, queue_app}) {
    each->add_option("--folder", options->folder)->required();
  }
  commits_app->add_option("--bytes", options->bytes);
  commits_app->add_option("--seconds", options->seconds);
  commits_app->callback([options] { commits(*options); });
  fill_app->add_option("--id", options->id)->required();
  fill_app->add_option("--jobs", options->jobs);
  fill_app->callback([options] { fill(*options); });
  queue_app->callback([options] { queue(*options); });
}

}  // namespace emoe::bench
