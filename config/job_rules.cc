// Rules that look at more than one key of a job. Those about one key are rows of schema.cc.
//
// A switch (tuning: full, emoe.experts: 0) leaves the keys of what it switches off alone, so that
// --set can turn a method off without rewriting the file.
#include <algorithm>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "config/config.h"
#include "config/schema.h"
#include "config/validation.h"

namespace emoe::config {
namespace {

constexpr int kMaxLabels = 64;
constexpr size_t kMaxLabelKey = 63;

bool uses_emoe(const v1::JobSpec& spec) {
  return spec.emoe().experts() > 0;
}

void check_model(const v1::JobSpec& spec, const KeyReporter& report) {
  const bool has_path = !spec.model().path().empty();
  if (has_path && spec.model().has_init()) {
    report("model.init", "give model.path or model.init, not both");
  } else if (!has_path && !spec.model().has_init()) {
    report("model.path", "is required (a Hugging Face folder), or model.init for a random start");
  } else if (spec.model().has_init() && spec.tuning() == "lora") {
    report("tuning", "a random start (model.init) has no base to keep frozen; use tuning: full");
  }
}

void check_init(const v1::JobSpec& spec, const KeyReporter& report) {
  const v1::ModelInit& init = spec.model().init();
  const int64_t heads = init.num_attention_heads();
  if (heads <= 0 || init.hidden_size() <= 0) return;  // reported by their rows
  if (init.hidden_size() % heads != 0) {
    report("model.init.num_attention_heads",
           absl::StrCat("must divide hidden_size ", init.hidden_size(), ", is ", heads));
  } else if (init.hidden_size() / heads % 2 != 0) {
    report("model.init.num_attention_heads",
           absl::StrCat("hidden_size / num_attention_heads must be even (rotary embedding), is ",
                        init.hidden_size() / heads));
  }
  if (init.num_key_value_heads() > 0 && heads % init.num_key_value_heads() != 0) {
    report("model.init.num_key_value_heads", absl::StrCat("must divide num_attention_heads ", heads,
                                                          ", is ", init.num_key_value_heads()));
  }
}

void check_data(const v1::JobSpec& spec, const KeyReporter& report) {
  if (spec.task() == "train" && spec.data().train().empty()) {
    report("data.train", "is required for task: train");
  }
}

void check_lora(const v1::JobSpec& spec, const KeyReporter& report) {
  std::set<std::string> seen;
  for (int i = 0; i < spec.lora().targets_size(); ++i) {
    const std::string& target = spec.lora().targets(i);
    if (!seen.insert(target).second) {
      report(absl::StrCat("lora.targets[", i, "]"),
             absl::StrCat("\"", target, "\" is given twice"));
    }
  }
}

void check_emoe(const v1::JobSpec& spec, const KeyReporter& report) {
  const v1::Emoe& emoe = spec.emoe();
  if (!uses_emoe(spec)) return;
  if (!emoe.has_top_k()) {
    report("emoe.top_k", absl::StrCat("is required with experts: ", emoe.experts(),
                                      " (how many of them a token uses)"));
  } else if (emoe.top_k() > emoe.experts()) {
    report("emoe.top_k",
           absl::StrCat("must be at most emoe.experts ", emoe.experts(), ", is ", emoe.top_k()));
  }
  if (emoe.selector() == "not_top" && emoe.top_k() == emoe.experts()) {
    report("emoe.selector", "not_top with top_k = experts leaves no expert");
  }
  if (emoe.partition().method() == "file" && emoe.partition().path().empty()) {
    report("emoe.partition.path", "is required with method: file (a partition/ folder)");
  }
}

void check_emoe_layers(const v1::JobSpec& spec, const KeyReporter& report) {
  if (!uses_emoe(spec)) return;
  const v1::EmoeLayers& layers = spec.emoe().layers();
  const bool has_range = layers.has_start() || layers.has_every();
  if (layers.list_size() > 0 && has_range) {
    report(layers.has_start() ? "emoe.layers.start" : "emoe.layers.every",
           "give start and every, or list, not both");
  } else if (layers.list_size() == 0 && !layers.has_start()) {
    report("emoe.layers", "is required: {start: 28, every: 2} or {list: [28, 30]}");
  }
  std::set<int32_t> seen;
  for (int i = 0; i < layers.list_size(); ++i) {
    if (!seen.insert(layers.list(i)).second) {
      report(absl::StrCat("emoe.layers.list[", i, "]"),
             absl::StrCat("layer ", layers.list(i), " is given twice"));
    }
  }
}

void check_train(const v1::JobSpec& spec, const KeyReporter& report) {
  if (spec.train().epochs() == 0 && spec.train().max_steps() == 0) {
    report("train.epochs", "must be at least 1 unless train.max_steps is above 0");
  }
}

void check_parallel(const v1::JobSpec& spec, const KeyReporter& report) {
  const int64_t ranks = spec.parallel().ranks();
  const int64_t tensor = std::max(spec.parallel().tensor(), 1);
  if (ranks < 1) return;  // reported by its row
  if (ranks % tensor != 0) {
    report("parallel.tensor", absl::StrCat("must divide parallel.ranks ", ranks, ", is ", tensor));
    return;
  }
  const int64_t replicas = ranks / tensor;
  const int64_t batch = spec.train().global_batch();
  if (batch >= 1 && batch < replicas) {
    report("train.global_batch",
           absl::StrCat("a batch of ", batch, " rows cannot feed ", replicas,
                        " ranks; raise it to at least ", replicas, " or lower parallel.ranks"));
  }
}

bool is_label_key(const std::string& key) {
  if (key.empty() || key.size() > kMaxLabelKey) return false;
  return std::all_of(key.begin(), key.end(), [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) || c == '_' || c == '-' || c == '.' || c == '/');
  });
}

void check_labels(const v1::JobSpec& spec, const KeyReporter& report) {
  if (spec.labels_size() > kMaxLabels) {
    report("labels",
           absl::StrCat("at most ", kMaxLabels, " labels, there are ", spec.labels_size()));
  }
  for (const auto& [key, value] : spec.labels()) {
    if (is_label_key(key)) continue;
    report("labels." + key.substr(0, 80), absl::StrCat("a label's key has 1 to ", kMaxLabelKey,
                                                       " of the characters A-Z a-z 0-9 _ - . /"));
  }
}

using Rule = void (*)(const v1::JobSpec&, const KeyReporter&);
constexpr Rule kRules[] = {check_model,       check_init,  check_data,     check_lora,  check_emoe,
                           check_emoe_layers, check_train, check_parallel, check_labels};

ModelShape shape_of(const v1::ModelInit& init) {
  return {.num_hidden_layers = init.num_hidden_layers(),
          .intermediate_size = init.intermediate_size(),
          .max_position_embeddings = init.max_position_embeddings()};
}

// "1, 2, 4, 43": all of a usual width (Llama-2-7B's has 18), the smallest of an unusual one.
std::string divisors_text(int64_t number) {
  constexpr size_t kMost = 64;
  std::set<int64_t> divisors;
  for (int64_t d = 1; d <= number / d; ++d) {
    if (number % d == 0) divisors.insert({d, number / d});
  }
  const auto end =
      std::next(divisors.begin(), static_cast<ptrdiff_t>(std::min(divisors.size(), kMost)));
  return absl::StrCat(absl::StrJoin(divisors.begin(), end, ", "),
                      divisors.size() > kMost ? ", …" : "");
}

}  // namespace

void validate(const v1::JobSpec& resolved, const KeyLocations& locations,
              Diagnostics& diagnostics) {
  check_rows(job_schema(), resolved, locations, diagnostics);
  const KeyReporter report(locations, diagnostics);
  for (const Rule rule : kRules) rule(resolved, report);
  if (resolved.model().has_init()) {
    validate_against_model(resolved, shape_of(resolved.model().init()), locations, diagnostics);
  }
}

std::vector<int64_t> converted_layers(const v1::JobSpec& resolved, int64_t num_hidden_layers) {
  std::vector<int64_t> layers;
  if (!uses_emoe(resolved)) return layers;
  const v1::EmoeLayers& wanted = resolved.emoe().layers();
  if (wanted.list_size() > 0) {
    layers.assign(wanted.list().begin(), wanted.list().end());
    std::sort(layers.begin(), layers.end());
    layers.erase(std::unique(layers.begin(), layers.end()), layers.end());
  } else if (wanted.has_start() && wanted.start() >= 0) {
    const int64_t every = std::max(wanted.every(), 1);
    for (int64_t l = wanted.start(); l < num_hidden_layers; l += every) layers.push_back(l);
  }
  return layers;
}

void validate_against_model(const v1::JobSpec& resolved, const ModelShape& shape,
                            const KeyLocations& locations, Diagnostics& diagnostics) {
  const KeyReporter report(locations, diagnostics);
  const int64_t width = shape.intermediate_size;
  const int64_t experts = resolved.emoe().experts();
  if (experts > 0 && width > 0 && width % experts != 0) {
    report("emoe.experts",
           absl::StrCat("must divide the model's intermediate_size ", width, ", is ", experts,
                        "; its divisors are ", divisors_text(width)));
  }
  const int64_t layers = shape.num_hidden_layers;
  const v1::EmoeLayers& wanted = resolved.emoe().layers();
  const auto in_range = [&](int64_t layer) { return layer < layers || layers <= 0; };
  const std::string range = absl::StrCat("; the model has layers 0 to ", layers - 1);
  if (experts > 0 && wanted.has_start() && !in_range(wanted.start())) {
    report("emoe.layers.start", absl::StrCat("no layer ", wanted.start(), range));
  }
  for (int i = 0; experts > 0 && i < wanted.list_size(); ++i) {
    if (in_range(wanted.list(i))) continue;
    report(absl::StrCat("emoe.layers.list[", i, "]"),
           absl::StrCat("no layer ", wanted.list(i), range));
  }
  const int64_t positions = shape.max_position_embeddings;
  if (positions > 0 && resolved.data().max_length() > positions) {
    report("data.max_length", absl::StrCat("must be at most the model's max_position_embeddings ",
                                           positions, ", is ", resolved.data().max_length()));
  }
}

void reject_unsupported(const v1::JobSpec& resolved, const KeyLocations& locations,
                        Diagnostics& diagnostics) {
  const KeyReporter report(locations, diagnostics);
  const auto reject = [&](bool when, const std::string& key, const std::string& instead) {
    if (when) report(key, "not supported yet: " + instead);
  };
  const std::string& task = resolved.task();
  reject(task == "convert" || task == "evaluate" || task == "analyze", "task",
         "only task: train is; it also evaluates data.eval and exports a merged model");
  const std::string& format = resolved.data().format();
  reject(format == "chat" || format == "completion", "data.format",
         "formats alpaca (instruction, input, output) and text are");
  reject(resolved.parallel().tensor() > 1, "parallel.tensor",
         "use tensor: 1, all ranks are data-parallel");
  reject(resolved.parallel().shard_base(), "parallel.shard_base",
         "use shard_base: false, every rank holds the base model");
  reject(uses_emoe(resolved) && resolved.emoe().partition().method() == "coactivation",
         "emoe.partition.method", "kmeans, random, contiguous and file are");
  reject(uses_emoe(resolved) && resolved.emoe().gate() == "learned", "emoe.gate",
         "gate: average is (the gate of EMoE)");
  reject(!resolved.export_().original_order(), "export.original_order",
         "use original_order: true, the neuron order of the base model");
  reject(resolved.has_evaluate(), "evaluate",
         "remove it; data.eval gives losses and perplexity on held-out rows");
}

}  // namespace emoe::config
