#include "worker/run/prepare.h"

#include <absl/strings/str_cat.h>

#include "base/diagnostics.h"
#include "base/file.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "config/warnings.h"
#include "data/row_warnings.h"
#include "format/generation_config.h"
#include "worker/run/content_hash.h"
#include "worker/run/experts.h"
#include "worker/run/job_error.h"
#include "worker/run/output_folder.h"

namespace emoe::worker {
namespace {

// `tokenizer` may be null for a model folder only.
BaseWeights open_base(const JobPlan& plan, const Tokenizer* tokenizer) {
  if (!plan.model.path.empty()) {
    BaseWeights base = input_or_throw(BaseWeights::open(plan.model.path));
    if (tokenizer == nullptr) return base;
    const Status fits = tokenizer->check_fits(base.config().vocab_size);
    if (!fits.ok()) throw JobError(ExitCode::data, fits);
    return base;
  }
  DecoderConfig config = plan.model.config;
  config.vocab_size = tokenizer->vocab_size();
  if (tokenizer->bos_id() >= 0) config.bos_token_id = tokenizer->bos_id();
  config.eos_token_ids = {tokenizer->eos_id()};
  return BaseWeights::random(config, plan.model.init_seed, plan.model.initializer_range);
}

// Where the tokenizer's EOS ends the rows, generation must stop there.
void check_end_of_text(const Prepared& prepared, Diagnostics& diagnostics) {
  if (prepared.tokenizer == nullptr) return;
  const auto& dataset = prepared.train ? prepared.train : prepared.eval;
  if (dataset && dataset->template_ends) return;
  const DecoderConfig& config = prepared.base.config();
  const std::string text = end_of_text_mismatch(*prepared.tokenizer, config, prepared.base.path());
  if (text.empty()) return;
  if (!config.eos_token_file.empty()) throw JobError(ExitCode::data, text);
  diagnostics.warn(
      {.code = warning::kDefaultDiffers, .text = text, .where = "config.json: eos_token_id"});
}

void warn_of_training(const TrainPlan& plan, const Prepared& prepared,
                      const std::vector<std::filesystem::path>& eval_files,
                      Diagnostics& diagnostics) {
  const auto rows = std::ssize(prepared.train->rows);
  const BatchPlan::Options& batches = plan.options.batches;
  if (prepared.eval) {
    data::warn_of_shared_rows(prepared.train->sources, prepared.eval->sources, eval_files,
                              diagnostics);
  }
  if (const auto steps = BatchPlan::make(rows, batches); steps.ok()) {
    config::warn_of_warmup(plan.options.warmup_ratio, steps->steps(), diagnostics);
  }
  config::warn_of_rest({.rows = rows,
                        .global_batch = batches.global_batch,
                        .epochs = batches.max_steps > 0 ? 0 : batches.epochs,
                        .drop_last = batches.drop_last,
                        .shuffle = batches.shuffle},
                       diagnostics);
  if (!plan.export_model.merged || prepared.base.folder() == nullptr) return;
  const int64_t taught = prepared.train->end_of_row;
  if (const auto end =
          end_of_generation_warning(taught, prepared.base.config(), prepared.base.path())) {
    diagnostics.warn(*end);
  }
}

// What there is to be said, before a task begins.
void collect_warnings(const JobPlan& plan, Prepared& prepared) {
  Diagnostics diagnostics;
  for (const Warning& told : plan.warnings) diagnostics.warn(told);
  for (const auto* dataset : {&prepared.train, &prepared.eval}) {
    if (!*dataset) continue;
    for (const Warning& told : (*dataset)->report.warnings) diagnostics.warn(told);
  }
  if (prepared.base.folder() != nullptr) {
    for (const Warning& told : prepared.base.folder()->headers().warnings) diagnostics.warn(told);
  }
  if (prepared.tokenizer != nullptr) {
    if (const auto choice = tokenizer_choice(*prepared.tokenizer)) diagnostics.warn(*choice);
  }
  check_end_of_text(prepared, diagnostics);
  if (plan.train() != nullptr) {
    const auto eval_files =
        plan.eval_data ? plan.eval_data->paths() : std::vector<std::filesystem::path>();
    warn_of_training(*plan.train(), prepared, eval_files, diagnostics);
  }
  prepared.warnings = diagnostics.warnings();
}

// Of added tokens beyond the embedding: no row may have one.
void check_embedded(const Dataset& dataset, const DatasetOptions& options,
                    const Prepared& prepared) {
  for (const Row& row : dataset.rows) {
    const Status status = prepared.tokenizer->check_ids(row.ids, prepared.base.config().vocab_size);
    if (status.ok()) continue;
    throw JobError(
        ExitCode::data,
        with_context(status, absl::StrCat(options.key, ": ", dataset.report.file, ": row ",
                                          row.source_index + 1, " (counted from 1)")));
  }
}

ChoiceSuite load_suite(const JobPlan::Suite& plan, const std::function<void()>& on_work_done) {
  ChoiceSuite suite{.name = plan.name,
                    .shots = plan.files.shots,
                    .split = plan.files.split,
                    .max_length = plan.max_length,
                    .subjects = {}};
  Diagnostics diagnostics;
  suite.subjects = data::read_suite(plan.files, diagnostics, on_work_done);
  if (!diagnostics.empty()) throw JobError(ExitCode::data, diagnostics.to_status());
  return suite;
}

ContentHashes hashes_of(const JobPlan& plan, const Prepared& prepared, ContentHasher& hasher) {
  ContentHashes hashes = input_or_throw(hash_inputs(plan, hasher));
  const auto check = [](const std::string& file, const std::string& hashed,
                        const std::string& read) {
    if (hashed == read) return;
    throw JobError(ExitCode::data, file + ": changed while it was being read");
  };
  if (prepared.tokenizer != nullptr) {
    check(prepared.tokenizer->file().string(), hashes.tokenizer, prepared.tokenizer->sha256());
  }
  for (const auto& [dataset, hash] :
       {std::pair(&prepared.train, &hashes.train), std::pair(&prepared.eval, &hashes.eval)}) {
    if (*dataset) check((*dataset)->report.file, *hash, (*dataset)->report.sha256);
  }
  if (auto program = sha256_of_file("/proc/self/exe"); program.ok()) hashes.program = *program;
  return hashes;
}

// A job that says what it was run with must find that.
void check_expected(const ContentHashes& expected, const ContentHashes& found) {
  for (const ContentField& content : kContentFields) {
    const std::string& wanted = expected.*content.hash;
    const std::string& got = found.*content.hash;
    if (content.source == nullptr || wanted.empty() || wanted == got) continue;
    throw JobError(ExitCode::data,
                   absl::StrCat("hashes.", content.key, ": the job was made for content ", wanted,
                                ", found is ", got,
                                "; take the hashes out of the job file to use what is there now"));
  }
}

std::string fingerprint_of(const JobPlan& plan, const Prepared& prepared) {
  Sha256 hash;
  hash.update(plan.identity);
  for (const ContentField& content : kContentFields) {
    if (content.in_fingerprint) hash.update(prepared.hashes.*content.hash + "\n");
  }
  for (const auto& [layer, partition] : prepared.emoe.partitions) {
    hash.update(absl::StrCat("layer ", layer, "\n"));
    hash.update(partition.labels.data(), partition.labels.size() * sizeof(partition.labels[0]));
  }
  return hash.hex_digest();
}

// Ranks on one host prepare one after the other: the first tokenises and clusters, the others find
// it done.
std::optional<FileLock> lock_cache(const std::filesystem::path& cache_dir) {
  Result<FileLock> lock = FileLock::acquire(cache_dir / "prepare.lock");
  if (lock.ok()) return std::move(*lock);
  warn_without_locks(lock.status(), "every rank prepares for itself");
  return std::nullopt;
}

}  // namespace

Prepared prepare(const JobPlan& plan, const std::filesystem::path& cache_dir, int threads,
                 ContentHasher& hasher, const std::function<void()>& on_work_done,
                 const std::function<bool()>& stop) {
  output_or_throw(emoe::create_directories(cache_dir));
  const std::optional<FileLock> lock = lock_cache(cache_dir);
  std::unique_ptr<Tokenizer> tokenizer;
  if (!plan.model.tokenizer.empty()) {
    tokenizer = input_or_throw(load_tokenizer(plan.model.tokenizer));
  }
  BaseWeights base = open_base(plan, tokenizer.get());
  Prepared prepared{.tokenizer = std::move(tokenizer), .base = std::move(base)};
  // Hashed as soon as it is open: what changes from here on is noticed before the export.
  if (!plan.model.path.empty()) input_or_throw(hasher.model(plan.model.path).status());
  const auto load = [&](DatasetOptions options) {
    options.cache_dir = cache_dir;
    options.threads = threads;
    options.on_work_done = on_work_done;
    Dataset dataset = input_or_throw(load_dataset(options, *prepared.tokenizer));
    check_embedded(dataset, options, prepared);
    return dataset;
  };
  if (plan.train() != nullptr) prepared.train = load(plan.train()->data);
  if (plan.eval_data) prepared.eval = load(*plan.eval_data);
  if (plan.suite) prepared.suite = load_suite(*plan.suite, on_work_done);
  if (plan.convert() == nullptr) {  // whose task they are
    prepared.emoe = make_experts(plan.emoe, prepared.base, cache_dir, threads, on_work_done, stop);
  }
  collect_warnings(plan, prepared);
  prepared.hashes = hashes_of(plan, prepared, hasher);
  hasher.remember();
  check_expected(plan.expected, prepared.hashes);
  prepared.fingerprint = fingerprint_of(plan, prepared);
  if (prepared.train) log_info("%d rows to train on", prepared.train->rows.size());
  if (prepared.eval) log_info("%d held-out rows", prepared.eval->rows.size());
  return prepared;
}

}  // namespace emoe::worker
