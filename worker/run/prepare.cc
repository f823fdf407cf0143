#include "worker/run/prepare.h"

#include <absl/strings/str_cat.h>

#include "base/file.h"
#include "base/file_lock.h"
#include "base/log.h"
#include "base/sha256.h"
#include "worker/run/content_hash.h"
#include "worker/run/exit_code.h"
#include "worker/run/experts.h"

namespace emoe::worker {
namespace {

BaseWeights open_base(const JobPlan& plan, const Tokenizer& tokenizer) {
  if (!plan.model.path.empty()) {
    BaseWeights base = input_or_throw(BaseWeights::open(plan.model.path));
    const Status fits = tokenizer.check_fits(base.config().vocab_size);
    if (!fits.ok()) throw JobError(ExitCode::data, std::string(fits.message()));
    return base;
  }
  LlamaConfig config = plan.model.config;
  config.vocab_size = tokenizer.vocab_size();
  config.bos_token_id = tokenizer.bos_id();
  config.eos_token_id = tokenizer.eos_id();
  return BaseWeights::random(config, plan.model.init_seed, plan.model.initializer_range);
}

Dataset load(DatasetOptions options, const Tokenizer& tokenizer,
             const std::filesystem::path& cache_dir, int threads) {
  options.cache_dir = cache_dir;
  options.threads = threads;
  return input_or_throw(load_dataset(options, tokenizer));
}

ContentHashes hashes_of(const JobPlan& plan, const Prepared& prepared,
                        const std::filesystem::path& cache_dir) {
  ContentHashes hashes;
  if (!plan.model.path.empty())
    hashes.model = input_or_throw(hash_of_model(plan.model.path, cache_dir));
  hashes.tokenizer = prepared.tokenizer.sha256();
  hashes.train = prepared.train.report.sha256;
  if (prepared.eval) hashes.eval = prepared.eval->report.sha256;
  if (auto program = cached_sha256_of_file("/proc/self/exe", ""); program.ok())
    hashes.program = *program;
  return hashes;
}

// A job that says what it was run with must find that.
void check_expected(const ContentHashes& expected, const ContentHashes& found) {
  const auto check = [](const std::string& key, const std::string& wanted, const std::string& got) {
    if (wanted.empty() || wanted == got) return;
    throw JobError(
        ExitCode::data,
        absl::StrCat("hashes.", key, ": the job was made for content ", wanted, ", found is ", got,
                     "; take the hashes out of the job file to use what is there now"));
  };
  check("model", expected.model, found.model);
  check("tokenizer", expected.tokenizer, found.tokenizer);
  check("train", expected.train, found.train);
  check("eval", expected.eval, found.eval);
}

std::string fingerprint_of(const JobPlan& plan, const Prepared& prepared,
                           const std::filesystem::path& cache_dir) {
  Sha256 hash;
  hash.update(plan.identity);
  hash.update(prepared.hashes.model + "\n" + prepared.hashes.tokenizer + "\n");
  if (!plan.tuning.init_adapter.empty()) {
    hash.update(input_or_throw(
        cached_sha256_of_file(plan.tuning.init_adapter / "adapter_model.safetensors", cache_dir)));
  }
  for (const auto& [layer, partition] : prepared.emoe.partitions) {
    hash.update(absl::StrCat("layer ", layer, "\n"));
    hash.update(partition.labels.data(), partition.labels.size() * sizeof(partition.labels[0]));
  }
  return hash.hex_digest();
}

}  // namespace

Prepared prepare(const JobPlan& plan, const std::filesystem::path& cache_dir, int threads) {
  output_or_throw(emoe::create_directories(cache_dir));
  const FileLock lock = input_or_throw(FileLock::acquire(cache_dir / "prepare.lock"));
  Tokenizer tokenizer = input_or_throw(Tokenizer::load(plan.model.tokenizer));
  BaseWeights base = open_base(plan, tokenizer);
  Dataset train = load(plan.train_data, tokenizer, cache_dir, threads);
  std::optional<Dataset> eval;
  if (plan.eval_data) eval = load(*plan.eval_data, tokenizer, cache_dir, threads);
  EmoeOptions emoe = make_experts(plan.emoe, base, cache_dir, threads);
  Prepared prepared{.tokenizer = std::move(tokenizer),
                    .base = std::move(base),
                    .train = std::move(train),
                    .eval = std::move(eval),
                    .emoe = std::move(emoe),
                    .hashes = {},
                    .fingerprint = ""};
  prepared.hashes = hashes_of(plan, prepared, cache_dir);
  check_expected(plan.expected, prepared.hashes);
  prepared.fingerprint = fingerprint_of(plan, prepared, cache_dir);
  log_info("%d rows to train on, %d held out", prepared.train.rows.size(),
           prepared.eval ? prepared.eval->rows.size() : 0);
  return prepared;
}

}  // namespace emoe::worker
