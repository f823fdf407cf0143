#include <memory>
#include <thread>

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "cli/command.h"
#include "cli/receipt.h"
#include "config/data_options.h"
#include "format/tokenizer.h"
#include "worker/train/plan_options.h"

namespace emoe::cli {
namespace {

constexpr int kExitData = 65;

struct DataOptions {
  std::string file;
  std::vector<std::string> set;
  int64_t rows = 1;
};

// The spec with its defaults.
Result<v1::JobSpec> load_resolved(const DataOptions& options) {
  EMOE_ASSIGN_OR_RETURN(const config::LoadedJob job, load_job_file(options.file, options.set));
  Diagnostics diagnostics;
  v1::JobSpec spec = config::check(job.spec, job.locations, std::nullopt, diagnostics);
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  if (!config::train_data(spec) && !config::eval_data(spec)) {
    return absl::InvalidArgumentError(
        absl::StrCat(options.file, ": task: ", spec.task(),
                     " reads no rows here: there is no data.train or data.eval to show"));
  }
  return spec;
}

// Prepares the data as a run of the job does, without its cache.
Result<Receipt> make_receipt(const v1::JobSpec& spec, int64_t shown_rows) {
  const bool is_new = spec.model().has_init();
  EMOE_ASSIGN_OR_RETURN(
      const std::unique_ptr<Tokenizer> tokenizer,
      load_tokenizer(is_new ? spec.model().init().tokenizer() : spec.model().path()));
  Receipt receipt{.tokenizer = tokenizer->file().string()};
  Diagnostics diagnostics;
  if (const auto choice = tokenizer_choice(*tokenizer)) diagnostics.warn(*choice);
  const auto load = [&](std::optional<DatasetOptions> options,
                        std::optional<Dataset>& dataset) -> Status {
    if (!options) return ok_status();
    options->threads = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
    options->shown_rows = shown_rows;
    EMOE_ASSIGN_OR_RETURN(dataset, load_dataset(*options, *tokenizer));
    for (const Warning& told : dataset->report.warnings) diagnostics.warn(told);
    return ok_status();
  };
  const std::optional<DatasetOptions> eval = config::eval_data(spec);
  EMOE_RETURN_IF_ERROR(load(config::train_data(spec), receipt.train));
  EMOE_RETURN_IF_ERROR(load(eval, receipt.eval));
  if (receipt.train && receipt.eval) {
    data::warn_of_shared_rows(receipt.train->sources, receipt.eval->sources, eval->paths(),
                              diagnostics);
  }
  if (receipt.train) {
    const auto packing =
        worker::packing_of(receipt.train->rows, worker::batch_plan_of(spec),
                           worker::micro_batches_of(spec), spec.parallel().ranks());
    if (packing.ok()) receipt.train->report.packing = *packing;
  }
  if (spec.data().strict()) diagnostics.forbid_warnings();
  EMOE_RETURN_IF_ERROR(diagnostics.to_status());
  receipt.warnings = diagnostics.warnings();
  return receipt;
}

int show_data(const Command& command, const DataOptions& options) {
  const auto job = load_resolved(options);
  if (!job.ok()) return command.fail(job.status(), kExitUsage);
  const auto receipt = make_receipt(*job, options.rows);
  if (!receipt.ok()) {
    return command.fail(receipt.status(),
                        absl::IsNotFound(receipt.status()) ? kExitUsage : kExitData);
  }
  Terminal& terminal = command.terminal;
  terminal.out << (command.output == "table"
                       ? receipt_text(*receipt, terminal.out_width, terminal.out_width > 0)
                       : receipt_json(*receipt))
               << std::flush;
  return kExitOk;
}

}  // namespace

void add_data_command(CLI::App& app, Command& command) {
  const auto options = std::make_shared<DataOptions>();
  CLI::App* data = app.add_subcommand(
      "data",
      "Tells what a job's data are: prepares them on this machine as its run would, without a\n"
      "coordinator, and prints rows read, kept, cut and dropped with their places, token lengths,\n"
      "duplicates, packing, the chat template, and a row with what is learned of it.\n"
      "Exit code 65 where rows, files or the tokenizer are wrong: all of them are listed.");
  add_job_file(*data, options->file, options->set);
  data->add_option("--rows", options->rows, "Rows to show")->capture_default_str();
  data->callback([&command, options] {
    command.action = [&command, options] { return show_data(command, *options); };
  });
}

}  // namespace emoe::cli
