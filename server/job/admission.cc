#include "server/job/admission.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "base/read_roots.h"
#include "base/sha256.h"
#include "config/config.h"
#include "config/data_options.h"
#include "config/model_config.h"
#include "config/validation.h"
#include "data/choice_suite.h"
#include "data/row_warnings.h"
#include "format/decoder_config.h"
#include "format/generation_config.h"
#include "format/partition_file.h"
#include "format/peft_config.h"
#include "format/tensor_table.h"
#include "format/tokenizer.h"
#include "format/tokenizer_file.h"
#include "format/weight_headers.h"
#include "server/job/job_warnings.h"
#include "server/job/path_check.h"
#include "server/job/suite_facts.h"
#include "text/data_check.h"
#include "text/tokenizer_probe.h"

namespace emoe::server {
namespace {

namespace fs = std::filesystem;

// Reports the problems of a model's files under the key that names them; false: there was none.
bool add_problems(const std::string& key, const Status& status, Diagnostics& diagnostics) {
  const std::vector<Violation> violations = violations_of(status);
  for (const Violation& violation : violations) diagnostics.add(key, to_string(violation));
  if (!status.ok() && violations.empty()) diagnostics.add(key, std::string(status.message()));
  return !status.ok();
}

// What of a model's files could be read.
struct ModelFiles {
  std::optional<DecoderConfig> config;
  std::unique_ptr<Tokenizer> tokenizer;
  std::optional<WeightHeaders> weights;

  [[nodiscard]] std::optional<config::ModelShape> shape() const {
    if (!config) return std::nullopt;
    config::ModelShape shape{.num_hidden_layers = config->num_hidden_layers,
                             .intermediate_size = config->intermediate_size,
                             .max_position_embeddings = config->max_position_embeddings,
                             .num_attention_heads = config->num_attention_heads,
                             .num_key_value_heads = config->num_key_value_heads,
                             .dtypes = {}};
    if (weights) shape.dtypes = weights->dtypes();
    return shape;
  }
};

// The key's tokenizer, alone and with its model; null where it cannot be used at all.
std::unique_ptr<Tokenizer> check_tokenizer(const std::string& key, const fs::path& path,
                                           const std::optional<DecoderConfig>& model,
                                           Diagnostics& diagnostics) {
  auto loaded = load_tokenizer(path);
  if (add_problems(key, loaded.status(), diagnostics)) return nullptr;
  std::unique_ptr<Tokenizer> tokenizer = std::move(*loaded);
  if (const auto choice = tokenizer_choice(*tokenizer)) diagnostics.warn(*choice);
  if (!model) return tokenizer;
  add_problems(key, tokenizer->check_fits(model->vocab_size), diagnostics);
  return tokenizer;
}

// Where the tokenizer's EOS ends the rows, generation must stop there.
void check_end_of_text(const ModelFiles& model, const fs::path& folder, Diagnostics& diagnostics) {
  const std::string mismatch = end_of_text_mismatch(*model.tokenizer, *model.config, folder);
  if (mismatch.empty()) return;
  if (!model.config->eos_token_file.empty()) return diagnostics.add("model.path", mismatch);
  diagnostics.warn(
      {.code = warning::kDefaultDiffers, .text = mismatch, .where = "config.json: eos_token_id"});
}

// Everything but the weights' data: config.json, the headers of all shards, every tensor's shape;
// and the tokenizer, of a task that needs none where there is one.
ModelFiles check_model(const fs::path& folder, bool needs_tokenizer, Diagnostics& diagnostics) {
  constexpr char kKey[] = "model.path";
  ModelFiles model;
  Result<DecoderConfig> config = DecoderConfig::read(folder / "config.json");
  if (!add_problems(kKey, config.status(), diagnostics)) model.config = std::move(*config);
  if (needs_tokenizer || !absl::IsNotFound(tokenizer_file(folder).status())) {
    model.tokenizer = check_tokenizer(kKey, folder, model.config, diagnostics);
  }
  if (!model.config) return model;
  Result<WeightHeaders> weights = read_weight_headers(folder);
  if (add_problems(kKey, weights.status(), diagnostics)) return model;
  if (add_problems(kKey, check_tensors(*weights, *model.config, folder.string()), diagnostics)) {
    return model;
  }
  for (const Warning& told : weights->warnings) diagnostics.warn(told);
  model.weights = std::move(*weights);
  return model;
}

// Its settings, and that its tensors are those of the settings and the model; an adapter to train
// on has the job's settings.
void check_adapter(const std::string& key, const fs::path& folder, const v1::JobSpec& spec,
                   const std::optional<DecoderConfig>& model, Diagnostics& diagnostics) {
  const auto settings = read_peft_config(folder);
  const auto header = read_peft_header(folder);
  const bool unread = add_problems(key, settings.status(), diagnostics);
  if (add_problems(key, header.status(), diagnostics) || unread) return;
  if (!model) return;
  const ModuleChoice& choice = settings->choice;
  const auto modules = adapter_modules(choice, *model, (folder / kPeftConfigFile).string());
  if (add_problems(key, modules.status(), diagnostics)) return;
  add_problems(key, check_peft_tensors(*modules, header->tensors, *model), diagnostics);
  if (!spec.has_lora()) return;
  const v1::Lora& lora = spec.lora();
  const LoraSettings adapter{.rank = choice.rank,
                             .alpha = choice.alpha,
                             .rslora = settings->rslora,
                             .targets = linears_of(*modules)};
  const LoraSettings wanted{.rank = lora.rank(),
                            .alpha = lora.alpha(),
                            .rslora = lora.use_rslora(),
                            .targets = {lora.targets().begin(), lora.targets().end()}};
  add_problems(key, check_peft_settings(adapter, wanted), diagnostics);
}

// That a partition is of the model's weights is asked of one layer: of another model all differ, and
// to hash the gate_proj of all takes long.
void check_partition(const v1::JobSpec& spec, const ModelFiles& model, Diagnostics& diagnostics) {
  constexpr char kKey[] = "emoe.partition.path";
  const fs::path folder = spec.emoe().partition().path();
  const auto layers = config::converted_layers(spec, model.config->num_hidden_layers);
  const TensorTable table(*model.config);
  bool compared = spec.task() == "evaluate";  // a model that was tuned with it
  for (const int64_t layer : layers) {
    const auto stored =
        read_partition_for(folder, layer, spec.emoe().experts(), model.config->intermediate_size);
    if (add_problems(kKey, stored.status(), diagnostics) || !model.weights) continue;
    if (std::exchange(compared, true)) continue;
    const TensorInfo& info = model.weights->tensors.at(table.of(TensorRole::gate, layer).name);
    const auto hash = sha256_of_range(info.file, info.begin, info.end);
    if (add_problems("model.path", hash.status(), diagnostics)) continue;
    add_problems(kKey, check_partition_weights(*stored, partition_file(folder, layer), *hash),
                 diagnostics);
  }
}

// The files of its other keys, read as the worker reads them.
void check_files(const v1::JobSpec& spec, const PathCheck& paths, ModelFiles& model,
                 Diagnostics& diagnostics) {
  if (paths.usable("model.init.tokenizer")) {
    model.tokenizer = check_tokenizer("model.init.tokenizer", spec.model().init().tokenizer(),
                                      std::nullopt, diagnostics);
  }
  if (paths.usable("adapter")) {
    check_adapter("adapter", spec.adapter(), spec, model.config, diagnostics);
  }
  for (int i = 0; i < spec.merge().adapters_size(); ++i) {
    const std::string key = absl::StrCat("merge.adapters[", i, "]");
    if (!paths.usable(key)) continue;
    check_adapter(key, spec.merge().adapters(i), spec, model.config, diagnostics);
  }
  if (paths.usable("lora.init_adapter") && spec.tuning() == "lora") {
    check_adapter("lora.init_adapter", spec.lora().init_adapter(), spec, model.config, diagnostics);
  }
  const v1::Emoe& emoe = spec.emoe();
  if (spec.task() == "convert" && emoe.experts() == 0 && model.config) {
    const auto order = read_neuron_order(spec.model().path(), *model.config);
    add_problems("model.path", order.status(), diagnostics);
  }
  const bool emoe_is_wrong = std::ranges::any_of(
      diagnostics.violations(), [](const Violation& v) { return v.field.starts_with("emoe"); });
  if (emoe_is_wrong) return;
  if (!spec.export_().original_order() && emoe.experts() > 0 && model.config &&
      paths.usable("model.path")) {
    const auto layers = config::converted_layers(spec, model.config->num_hidden_layers);
    add_problems("export.original_order",
                 check_order_is_original(spec.model().path(), *model.config, layers), diagnostics);
  }
  if (paths.usable("emoe.partition.path") && emoe.partition().method() == "file" &&
      emoe.experts() > 0 && model.config) {
    check_partition(spec, model, diagnostics);
  }
}

// Of the checks of the keys alone, whether they found nothing wrong in this section: a wrong value has been
// told of, and nothing can be computed with it.
class SoundSections {
 public:
  // Of the violations from the `first` on.
  SoundSections(const Diagnostics& diagnostics, size_t first) {
    const auto& all = diagnostics.violations();
    for (size_t i = first; i < all.size(); ++i) {
      wrong_.insert(all[i].field.substr(0, all[i].field.find_first_of(".[")));
    }
  }
  // Of a word that is no task nothing has a default.
  [[nodiscard]] bool operator()(const std::string& section) const {
    return !wrong_.contains("task") && !wrong_.contains(section);
  }

 private:
  std::set<std::string> wrong_;
};

// A row of messages gives at most one row to train on. (How many a text gives depends on the
// tokenizer.)
void check_batch(const v1::JobSpec& spec, size_t rows, Diagnostics& diagnostics) {
  const int32_t batch = spec.train().global_batch();
  if (!spec.train().drop_last() || std::cmp_greater_equal(rows, batch)) return;
  config::KeyReporter({}, diagnostics)(
      "train.global_batch", absl::StrCat("is ", batch, ", but data.train has only ", rows,
                                         " usable rows: with train.drop_last no step is left"));
}

// Whether the files of a data set can be read.
bool usable(const PathCheck& paths, const v1::JobSpec& spec, const DatasetOptions& options) {
  if (options.key == "data.eval") return paths.usable("data.eval");
  bool all = spec.data().train().empty() || paths.usable("data.train");
  for (int i = 0; i < spec.data().train_files_size(); ++i) {
    all = all && paths.usable(absl::StrCat("data.train[", i, "]"));
  }
  return all && !options.files.empty();
}

// All rows of the data sets, with their tokenizer as the run reads them. Where a value of the section is
// wrong (not `sound`), what is wrong with the files is told all the same, but no row is tokenised.
void check_data(const v1::JobSpec& spec, const PathCheck& paths, const Tokenizer* tokenizer,
                bool sound, Diagnostics& diagnostics, SpecFacts& facts) {
  if (data::find_row_format(spec.data().format()) == nullptr) return;
  if (!sound) tokenizer = nullptr;
  const auto check = [&](const std::optional<DatasetOptions>& options) {
    std::optional<DataCheck> found;
    if (!options || !usable(paths, spec, *options)) return found;
    std::optional<Recipe> recipe;
    if (tokenizer != nullptr) recipe.emplace(make_recipe(*options, *tokenizer, diagnostics));
    if (recipe) facts.end_of_row = recipe->end_of_row();
    if (recipe && recipe->chat != nullptr) facts.chat_template = recipe->chat->name();
    facts.template_ends = recipe && recipe->chat != nullptr && recipe->chat->writes_ends();
    return emoe::check_data(*options, recipe ? &*recipe : nullptr, diagnostics);
  };
  const std::optional<DatasetOptions> train = config::train_data(spec);
  const std::optional<DatasetOptions> eval = config::eval_data(spec);
  facts.train = check(train);
  if (eval && eval->key == "data.eval") {
    const bool same = train && train->paths() == eval->paths() && train->fraction == 1.0;
    facts.eval = same ? facts.train : check(eval);
  }
  if (!facts.train || !train || !sound) return;
  std::vector<data::RowKey>& rows = facts.train->rows;
  if (train->held_out.side != data::HeldOut::Side::none && !rows.empty()) {
    const auto out = data::held_out_rows(rows, train->held_out.fraction, train->seed);
    facts.held_out = std::ranges::count(out, true);
  }
  facts.train_rows = static_cast<int64_t>(
      data::select_rows(rows, train->files, train->held_out, train->seed).size());
  if (data::find_row_format(train->format)->has_messages()) {
    check_batch(spec, static_cast<size_t>(facts.train_rows), diagnostics);
  }
}

// Questions are read as the worker reads them.
void check_suite(const v1::JobSpec& spec, const PathCheck& paths, const Tokenizer* tokenizer,
                 Diagnostics& diagnostics, SpecFacts& facts) {
  if (!paths.usable("evaluate.path") || !spec.has_evaluate()) return;
  const v1::Evaluate& evaluate = spec.evaluate();
  const auto subjects =
      data::read_suite({.folder = evaluate.path(),
                        .split = evaluate.split(),
                        .shots = evaluate.shots(),
                        .subjects = {evaluate.subjects().begin(), evaluate.subjects().end()},
                        .limit = evaluate.limit()},
                       diagnostics);
  if (tokenizer != nullptr && !subjects.empty()) facts.suite = facts_of_suite(subjects, *tokenizer);
}

void check_engine_keys(const v1::JobSpec& spec, const AdmissionConfig& config,
                       Diagnostics& diagnostics) {
  if (config.engine.empty()) return;
  const v1::Resources& resources = spec.resources();
  const auto* part = resources.GetDescriptor()->FindFieldByName(config.engine);
  const google::protobuf::Message& options = resources.GetReflection()->GetMessage(resources, part);
  std::vector<const google::protobuf::FieldDescriptor*> given;
  options.GetReflection()->ListFields(options, &given);
  for (const auto* field : given) {
    if (config.engine_keys.contains(field->name())) continue;
    diagnostics.add(absl::StrCat("resources.", config.engine, ".", field->name()),
                    absl::StrCat("this service does not let jobs set it (its launcher.",
                                 config.engine, ".job_may_set)"));
  }
}

// Of a random start, too.
std::optional<DecoderConfig> planned_shape(const v1::JobSpec& spec, const ModelFiles& model) {
  if (!spec.model().has_init()) return model.config;
  if (model.tokenizer == nullptr) return std::nullopt;
  DecoderConfig config = config::config_of_init(spec.model().init());
  config.vocab_size = model.tokenizer->vocab_size();
  return config;
}

int64_t stored_bytes(const ModelFiles& model) {
  int64_t bytes = 0;
  if (!model.weights) return bytes;
  for (const auto& [name, info] : model.weights->tensors)
    bytes += static_cast<int64_t>(info.end - info.begin);
  return bytes;
}

}  // namespace

v1::JobSpec admit(const v1::JobSpec& spec, const AdmissionConfig& config, Diagnostics& diagnostics,
                  Findings* found) {
  v1::JobSpec given = spec;
  const ReadScope reads(config.allowed_roots);
  PathCheck paths(config.allowed_roots, diagnostics);
  config::change_paths(given, std::ref(paths));
  ModelFiles model;
  if (paths.usable("model.path") && !given.model().has_init()) {
    model = check_model(given.model().path(), given.task() != "merge" && given.task() != "convert",
                        diagnostics);
  }
  const size_t of_files = diagnostics.violations().size();
  const v1::JobSpec resolved = config::check(given, {}, model.shape(), diagnostics);
  const SoundSections sound(diagnostics, of_files);
  check_engine_keys(resolved, config, diagnostics);
  check_files(resolved, paths, model, diagnostics);
  SpecFacts facts;
  check_data(resolved, paths, model.tokenizer.get(), sound("data"), diagnostics, facts);
  if (sound("evaluate")) {
    check_suite(resolved, paths, model.tokenizer.get(), diagnostics, facts);
  }
  if (model.config && model.tokenizer && sound("data")) {
    const fs::path folder = given.model().path();
    if (!facts.template_ends) check_end_of_text(model, folder, diagnostics);
    const int32_t end = facts.template_ends ? facts.end_of_row : model.tokenizer->eos_id();
    facts.end_of_generation = end_of_generation_warning(end, *model.config, folder);
  }
  if (diagnostics.empty()) warn_of(resolved, facts, diagnostics);
  if (resolved.data().strict()) diagnostics.forbid_warnings();
  if (found != nullptr && diagnostics.empty()) {
    found->data = receipt_of(facts);
    found->plan = plan_of({.spec = resolved,
                           .given = given,
                           .shape = model.shape(),
                           .model = planned_shape(resolved, model),
                           .stored_weight_bytes = stored_bytes(model),
                           .facts = facts},
                          config.capacity);
  }
  return resolved;
}

}  // namespace emoe::server
