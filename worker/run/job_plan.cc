#include "worker/run/job_plan.h"

#include <absl/strings/str_cat.h>

#include "base/check.h"
#include "base/diagnostics.h"
#include "config/config.h"
#include "config/data_options.h"
#include "config/model_config.h"
#include "format/tokenizer_file.h"
#include "format/weight_headers.h"
#include "worker/run/job_error.h"
#include "worker/train/plan_options.h"

namespace emoe::worker {
namespace {

Selector selector_of(const std::string& word) {
  if (word == "bottom") return Selector::bottom;
  if (word == "not_top") return Selector::not_top;
  return Selector::top;
}

ScheduleKind schedule_of(const std::string& word) {
  if (word == "linear") return ScheduleKind::linear;
  if (word == "constant") return ScheduleKind::constant;
  return ScheduleKind::cosine;
}

JobPlan::Emoe emoe_of(const v1::JobSpec& spec, int64_t num_layers) {
  JobPlan::Emoe emoe;
  if (spec.emoe().experts() == 0) return emoe;
  emoe.routing = {.num_experts = spec.emoe().experts(),
                  .top_k = spec.emoe().top_k(),
                  .selector = selector_of(spec.emoe().selector())};
  emoe.layers = config::converted_layers(spec, num_layers);
  const v1::Partition& partition = spec.emoe().partition();
  emoe.partition.method = partition.method();
  emoe.partition.restarts = partition.restarts();
  emoe.partition.seed = partition.seed();
  emoe.partition.folder = partition.path();
  return emoe;
}

JobPlan::Model model_of(const v1::JobSpec& spec, DecoderConfig config) {
  JobPlan::Model model;
  model.config = std::move(config);
  model.bfloat16 = spec.model().dtype() == "bfloat16";
  if (spec.model().has_init()) {
    const v1::ModelInit& init = spec.model().init();
    model.tokenizer = init.tokenizer();
    model.init_seed = init.seed();
    model.initializer_range = init.initializer_range();
  } else {
    model.path = spec.model().path();
    model.tokenizer = model.path;
  }
  return model;
}

LoraOptions lora_of(const v1::JobSpec& spec) {
  LoraOptions lora;
  if (spec.tuning() == "full") return lora;
  lora.rank = spec.lora().rank();
  lora.alpha = spec.lora().alpha();
  lora.dropout = spec.lora().dropout();
  lora.rslora = spec.lora().use_rslora();
  lora.targets.assign(spec.lora().targets().begin(), spec.lora().targets().end());
  lora.seed = spec.train().seed();
  return lora;
}

TrainOptions train_of(const v1::JobSpec& spec) {
  TrainOptions train;
  train.batches = batch_plan_of(spec);
  train.loss_reduction =
      spec.train().loss_reduction() == "example" ? LossReduction::example : LossReduction::token;
  train.micro_batches = micro_batches_of(spec);
  const v1::Optimizer& optimizer = spec.optimizer();
  train.adamw = {.beta1 = optimizer.beta1(),
                 .beta2 = optimizer.beta2(),
                 .epsilon = optimizer.epsilon(),
                 .weight_decay = optimizer.weight_decay(),
                 .max_grad_norm = optimizer.max_grad_norm()};
  train.schedule = schedule_of(optimizer.schedule());
  train.learning_rate = optimizer.learning_rate();
  train.warmup_ratio = optimizer.warmup_ratio();
  train.eval_every = spec.train().eval_every();

  train.checkpoint.every_steps = spec.checkpoint().every_steps();
  train.checkpoint.keep = spec.checkpoint().keep();
  return train;
}

std::optional<JobPlan::Suite> suite_of(const v1::JobSpec& spec, const DecoderConfig& model) {
  if (!spec.has_evaluate()) return std::nullopt;
  const v1::Evaluate& evaluate = spec.evaluate();
  return JobPlan::Suite{
      .name = evaluate.suite(),
      .files = {.folder = evaluate.path(),
                .split = evaluate.split(),
                .shots = evaluate.shots(),
                .subjects = {evaluate.subjects().begin(), evaluate.subjects().end()},
                .limit = evaluate.limit()},
      .max_length =
          evaluate.max_length() > 0 ? evaluate.max_length() : model.max_position_embeddings,
      .max_tokens = micro_batches_of(spec).max_tokens};
}

ExportPlan export_of(const v1::JobSpec& spec) {
  return {.dtype = spec.export_().dtype(),
          .merged = spec.export_().merged(),
          .adapter = spec.export_().adapter() && spec.tuning() == "lora",
          .verify = spec.export_().verify(),
          .original_order = spec.export_().original_order()};
}

AdapterMergePlan merge_plan_of(const v1::JobSpec& spec) {
  AdapterMergePlan plan;
  if (!spec.adapter().empty()) plan.parts.push_back({.adapter = spec.adapter()});
  for (int i = 0; i < spec.merge().adapters_size(); ++i) {
    const bool weighted = spec.merge().weights_size() > 0;
    plan.parts.push_back(
        {.adapter = spec.merge().adapters(i), .weight = weighted ? spec.merge().weights(i) : 1.0});
  }
  plan.export_model = {
      .dtype = spec.export_().dtype(), .adapter = false, .verify = spec.export_().verify()};
  return plan;
}

TrainPlan train_plan_of(const v1::JobSpec& spec) {
  return {.full = spec.tuning() == "full",
          .recompute = spec.train().recompute(),
          .lora = lora_of(spec),
          .data = *config::train_data(spec),
          .options = train_of(spec),
          .export_model = export_of(spec)};
}

// The spec reduced to the keys that influence the run's numbers by more than rounding. Input files
// are compared by content, see content_hash.h.
std::string identity_of_spec(v1::JobSpec spec) {
  spec.clear_name();
  spec.clear_labels();
  spec.clear_hashes();
  spec.clear_resources();
  spec.clear_parallel();
  spec.clear_checkpoint();
  spec.clear_export_();
  spec.mutable_train()->clear_log_every();
  spec.mutable_train()->clear_eval_every();
  spec.mutable_train()->clear_micro_batch_tokens();
  spec.mutable_train()->clear_recompute();
  spec.mutable_data()->clear_packing();
  spec.mutable_data()->clear_strict();
  spec.mutable_data()->clear_train();
  for (v1::DataFile& file : *spec.mutable_data()->mutable_train_files()) file.clear_path();
  // Keys that came later: a run from before them had what is their default.
  if (spec.data().template_() == "auto") spec.mutable_data()->clear_template_();
  if (spec.data().answers() == "all") spec.mutable_data()->clear_answers();
  spec.mutable_data()->clear_eval();
  spec.mutable_model()->clear_path();
  spec.mutable_model()->mutable_init()->clear_tokenizer();
  spec.clear_adapter();
  spec.mutable_merge()->clear_adapters();
  spec.mutable_evaluate()->clear_path();
  spec.mutable_lora()->clear_init_adapter();
  spec.mutable_emoe()->mutable_partition()->clear_path();
  return config::message_to_yaml(spec);
}

const google::protobuf::FieldDescriptor* stored_field(const ContentField& content) {
  const auto* field = v1::Hashes::descriptor()->FindFieldByName(content.key);
  EMOE_CHECK(field != nullptr, content.key);
  return field;
}

ContentHashes hashes_of(const v1::JobSpec& spec) {
  ContentHashes hashes;
  for (const ContentField& content : kContentFields) {
    hashes.*content.hash =
        spec.hashes().GetReflection()->GetString(spec.hashes(), stored_field(content));
  }
  return hashes;
}

void throw_if_any(const Diagnostics& diagnostics) {
  const Status status = diagnostics.to_status();
  if (!status.ok()) throw JobError(ExitCode::configuration, status);
}

config::LoadedJob load_or_throw(const std::filesystem::path& file,
                                const std::vector<std::string>& overrides,
                                Diagnostics& diagnostics) {
  auto loaded = config::load_job(file, overrides, diagnostics);
  if (!loaded.ok()) throw JobError(ExitCode::configuration, loaded.status());
  return std::move(loaded).value();
}

config::ModelShape shape_of(const DecoderConfig& config) {
  return {.num_hidden_layers = config.num_hidden_layers,
          .intermediate_size = config.intermediate_size,
          .max_position_embeddings = config.max_position_embeddings,
          .num_attention_heads = config.num_attention_heads,
          .num_key_value_heads = config.num_key_value_heads,
          .dtypes = {}};
}

// The spec with its defaults and the configuration of its model. Throws every problem there is: a
// config.json that cannot be used is one among others, and decides the exit code only when it is
// alone.
std::pair<v1::JobSpec, DecoderConfig> check_or_throw(const config::LoadedJob& job,
                                                     Diagnostics& diagnostics) {
  const std::filesystem::path folder = job.spec.model().path();
  if (job.spec.model().has_init() || folder.empty()) {
    v1::JobSpec spec = config::check(job.spec, job.locations, std::nullopt, diagnostics);
    throw_if_any(diagnostics);
    return {spec, spec.has_model() ? config::config_of_init(spec.model().init()) : DecoderConfig{}};
  }
  Result<DecoderConfig> config = DecoderConfig::read(folder / "config.json");
  std::optional<config::ModelShape> shape;
  if (config.ok()) shape = shape_of(*config);
  // Weights that cannot be read are told of when they are loaded.
  if (const auto weights = read_weight_headers(folder); config.ok() && weights.ok()) {
    shape->dtypes = weights->dtypes();
  }
  v1::JobSpec spec = config::check(job.spec, job.locations, shape, diagnostics);
  if (!config.ok() && !diagnostics.empty()) {
    diagnostics.add(config::locate(job.locations, "model.path"), "model.path",
                    std::string(config.status().message()));
  }
  throw_if_any(diagnostics);
  return {std::move(spec), input_or_throw(std::move(config))};
}

// `logits` takes only these keys from a job; the others may be wrong.
bool concerns_logits(const Violation& violation) {
  const std::string& key = violation.field;
  return key == "model.dtype" || key == "emoe" || key.starts_with("emoe.");
}

}  // namespace

JobPlan plan_job(const std::filesystem::path& job_file, const std::vector<std::string>& overrides) {
  Diagnostics diagnostics;
  const config::LoadedJob loaded = load_or_throw(job_file, overrides, diagnostics);
  auto [spec, config] = check_or_throw(loaded, diagnostics);
  JobPlan plan;
  plan.ranks = spec.parallel().ranks();
  plan.min_ranks = spec.parallel().min_ranks();
  plan.tensor = spec.parallel().tensor();
  plan.shard_base = spec.parallel().shard_base();
  plan.threads_per_rank = spec.resources().threads_per_rank();
  plan.device = spec.resources().device();
  plan.model = model_of(spec, std::move(config));
  plan.adapter = spec.task() == "evaluate" ? spec.adapter()
                 : spec.tuning() == "lora" ? spec.lora().init_adapter()
                                           : "";
  plan.emoe = emoe_of(spec, plan.model.config.num_hidden_layers);
  if (!spec.export_().original_order() && !plan.emoe.layers.empty() && !plan.model.path.empty()) {
    const Status status =
        check_order_is_original(plan.model.path, plan.model.config, plan.emoe.layers);
    if (!status.ok()) {
      throw JobError(ExitCode::configuration,
                     absl::StrCat("export.original_order: ", std::string(status.message())));
    }
  }
  plan.eval_data = config::eval_data(spec);
  plan.suite = suite_of(spec, plan.model.config);
  if (spec.train().micro_batch_tokens() == 0) plan.longest_row = spec.data().max_length();
  plan.preflight = spec.resources().preflight() || spec.task() == "preflight";
  if (spec.task() == "preflight") {
    plan.task = PreflightPlan{};
  } else if (spec.task() == "evaluate") {
    plan.emoe.partition.tuned_since = true;
    plan.task = EvaluatePlan{.micro_batches = micro_batches_of(spec)};
  } else if (spec.task() == "merge") {
    plan.task = merge_plan_of(spec);
  } else if (spec.task() == "convert") {
    plan.task = ConvertPlan{.restores = spec.emoe().experts() == 0,
                            .permutes = !spec.export_().original_order(),
                            .verify = spec.export_().verify()};
  } else {
    plan.task = train_plan_of(spec);
    plan.log_every = spec.train().log_every();
  }
  if (plan.only_weights() && absl::IsNotFound(tokenizer_file(plan.model.path).status())) {
    plan.model.tokenizer.clear();
  }
  plan.strict = spec.data().strict();
  plan.warnings = diagnostics.warnings();
  plan.expected = hashes_of(spec);
  plan.identity = identity_of_spec(spec);
  plan.spec = std::make_shared<const v1::JobSpec>(std::move(spec));
  return plan;
}

std::string yaml_with_hashes(const JobPlan& plan, const ContentHashes& hashes) {
  v1::JobSpec spec = *plan.spec;
  v1::Hashes& stored = *spec.mutable_hashes();
  for (const ContentField& content : kContentFields) {
    stored.GetReflection()->SetString(&stored, stored_field(content), hashes.*content.hash);
  }
  return config::message_to_yaml(spec);
}

LogitsPlan plan_logits(const std::filesystem::path& job_file,
                       const std::filesystem::path& partition, const DecoderConfig& config) {
  Diagnostics all;
  const config::LoadedJob loaded = load_or_throw(job_file, {}, all);
  const size_t structure = all.violations().size();
  v1::JobSpec given = loaded.spec;
  given.mutable_model()->clear_init();  // the shape is that of the model at hand
  if (!partition.empty() && given.has_emoe()) {
    given.mutable_emoe()->mutable_partition()->set_method("file");
    given.mutable_emoe()->mutable_partition()->set_path(partition.string());
  }
  const v1::JobSpec spec = config::check(given, loaded.locations, shape_of(config), all);
  if (!partition.empty() && spec.emoe().experts() == 0) {
    all.add(config::locate(loaded.locations, "emoe"), "emoe",
            "--partition is of no use without experts");
  }
  Diagnostics mine;
  for (size_t i = 0; i < all.violations().size(); ++i) {
    const Violation& violation = all.violations()[i];
    if (i >= structure && !concerns_logits(violation)) continue;
    mine.add(violation.location, violation.field, violation.reason);
  }
  throw_if_any(mine);
  LogitsPlan plan{.bfloat16 = loaded.spec.model().dtype() == "bfloat16",
                  .emoe = emoe_of(spec, config.num_hidden_layers)};
  plan.emoe.partition.tuned_since = true;
  return plan;
}

StoredJob read_stored_job(const std::filesystem::path& job_yaml) {
  Diagnostics diagnostics;
  const config::LoadedJob loaded = load_or_throw(job_yaml, {}, diagnostics);
  throw_if_any(diagnostics);
  const v1::JobSpec spec = config::resolve(loaded.spec);
  return {.identity = identity_of_spec(spec), .hashes = hashes_of(spec)};
}

std::vector<std::string> changed_keys(const StoredJob& before, const JobPlan& now) {
  return config::changed_keys(before.identity, now.identity);
}

}  // namespace emoe::worker
