#include <filesystem>
#include <memory>
#include <vector>

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/version.h"
#include "cli/archive.h"
#include "cli/command.h"
#include "cli/format.h"
#include "config/config.h"

namespace emoe::cli {
namespace {

namespace fs = std::filesystem;

struct BundleOptions {
  std::string id;
  std::string out;
};

// What of an output folder tells how the result came about: reports and records, no weights and no
// rows.
constexpr const char* kRecords[] = {"job.yaml",
                                    "metrics.jsonl",
                                    "eval.jsonl",
                                    "evaluation.json",
                                    "evaluation_dense.json",
                                    "data_report.json",
                                    "warnings.json",
                                    "expert_stats.json",
                                    "ffn.json",
                                    "preflight.json",
                                    "partition_report.json",
                                    "export/merge_report.json",
                                    "export/tokenizer_probe.json"};

// What the service knows of the job.
struct Known {
  v1::Job job;
  v1::ServerInfo server;
  v1::ListMetricsResponse metrics;
  v1::ListCheckpointsResponse checkpoints;
  v1::GetJobLogsResponse logs;
};

grpc::Status ask(Client& client, const std::string& id, Known& known) {
  grpc::Status status = client.get_job(id, known.job);
  if (!status.ok()) return status;
  status =
      client.call(&v1::FineTuning::Stub::GetServerInfo, v1::GetServerInfoRequest(), known.server);
  if (!status.ok()) return status;
  v1::ListMetricsRequest metrics;
  metrics.set_id(id);
  metrics.set_page_size(10'000);
  status = client.list(&v1::FineTuning::Stub::ListMetrics, metrics,
                       &v1::ListMetricsResponse::steps_size, 0, known.metrics);
  if (!status.ok()) return status;
  v1::ListCheckpointsRequest checkpoints;
  checkpoints.set_id(id);
  checkpoints.set_page_size(1000);
  status = client.list(&v1::FineTuning::Stub::ListCheckpoints, checkpoints,
                       &v1::ListCheckpointsResponse::checkpoints_size, 0, known.checkpoints);
  if (!status.ok()) return status;
  v1::GetJobLogsRequest logs;
  logs.set_id(id);
  logs.set_max_bytes(1 << 20);
  return client.call(&v1::FineTuning::Stub::GetJobLogs, logs, known.logs);
}

// The records that there are; false where the folder cannot be seen from here.
bool add_records(const v1::Job& job, const std::string& top, int64_t time, Archive& archive) {
  const fs::path folder = job.output_dir();
  std::error_code error;
  if (!fs::is_directory(folder, error)) return false;
  std::vector<fs::path> names(std::begin(kRecords), std::end(kRecords));
  for (const auto& entry : fs::directory_iterator(folder / "partition", error)) {
    names.push_back(fs::path("partition") / entry.path().filename());
  }
  for (const fs::path& name : names) {
    const auto content = read_file(folder / name);
    if (content.ok()) archive.add(absl::StrCat(top, "output/", name.string()), *content, time);
  }
  return true;
}

int bundle(const Command& command, const BundleOptions& options, Client& client) {
  Known known;
  if (const grpc::Status status = ask(client, options.id, known); !status.ok()) {
    return command.fail(status);
  }
  const v1::Job& job = known.job;
  const fs::path path = options.out.empty() ? job.id() + ".tar.gz" : options.out;
  const int64_t time = job.has_end_time() ? job.end_time().seconds() : job.update_time().seconds();
  const std::string top = job.id() + "/";
  Archive archive(path);
  const auto add = [&](const char* name, const std::string& content) {
    archive.add(top + name, content, time);
  };
  add("job.json", config::message_to_json(job) + "\n");
  add("spec.yaml", config::message_to_yaml(job.spec()));
  add("resolved.yaml", config::message_to_yaml(job.resolved_spec()));
  add("server.json", config::message_to_json(known.server) + "\n");
  add("metrics.json", config::message_to_json(known.metrics) + "\n");
  add("checkpoints.json", config::message_to_json(known.checkpoints) + "\n");
  add("emoectl.txt", absl::StrCat("emoectl ", version(), "\n"));
  add("log.txt", known.logs.text());
  const bool seen = add_records(job, top, time, archive);
  if (const Status written = archive.finish(); !written.ok()) {
    return command.fail(written, kExitOther);
  }
  if (!seen) {
    command.terminal.err << "without the records of " << job.output_dir()
                         << ": it cannot be seen from here\n";
  }
  command.terminal.out << path.string() << "\n" << std::flush;
  return kExitOk;
}

}  // namespace

void add_bundle_command(CLI::App& app, Command& command) {
  const auto options = std::make_shared<BundleOptions>();
  CLI::App* bundle_app = app.add_subcommand(
      "bundle",
      "Writes one archive with what a reviewer needs to repeat a run: the spec as given and\n"
      "resolved, hashes, versions, reports, metrics, plan and log; no weights and no rows");
  bundle_app->add_option("--out", options->out, "The archive [JOB.tar.gz in this folder]");
  on_job(*bundle_app, command, options, bundle);
}

}  // namespace emoe::cli
