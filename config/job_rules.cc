// Rules that look at more than one key of a job, or at the model: rows, as those about one key
// (schema.cc) are.
//
// A switch (tuning: full, emoe.experts: 0) leaves the keys of what it switches off alone, so that
// --set can turn a method off without rewriting the file.
#include <algorithm>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "config/schema.h"
#include "data/row_format.h"

namespace emoe::config {
namespace {

using In = const RuleInput&;

bool has_path(In in) {
  return !in.spec.model().path().empty();
}
bool has_init(In in) {
  return in.spec.model().has_init();
}
bool is_evaluation(In in) {
  return in.spec.task() == "evaluate";
}
bool is_merge(In in) {
  return in.spec.task() == "merge";
}
bool is_convert(In in) {
  return in.spec.task() == "convert";
}
// By one process: nothing of it is shared by ranks.
bool is_single(In in) {
  return is_merge(in) || is_convert(in);
}
bool has_files(In in) {
  return in.spec.data().train_files_size() > 0;
}
// The names on the left of data.fields that the format does not have.
std::string unknown_fields(In in) {
  const data::RowFormat* format = data::find_row_format(in.spec.data().format());
  std::set<std::string> unknown;
  for (const auto& [field, column] : in.spec.data().fields()) {
    if (format == nullptr) continue;
    if (std::ranges::find(format->fields, field) == format->fields.end()) unknown.insert(field);
  }
  return absl::StrJoin(unknown, ", ");
}
std::string known_fields(In in) {
  const data::RowFormat* format = data::find_row_format(in.spec.data().format());
  return format == nullptr ? "" : absl::StrJoin(format->fields, ", ");
}
bool is_preflight(In in) {
  return in.spec.task() == "preflight";
}
bool uses_emoe(In in) {
  return in.spec.emoe().experts() > 0;
}

const v1::ModelInit& init(In in) {
  return in.spec.model().init();
}
const v1::Emoe& emoe(In in) {
  return in.spec.emoe();
}
const v1::EmoeLayers& layers(In in) {
  return in.spec.emoe().layers();
}
const google::protobuf::RepeatedField<double>& weights(In in) {
  return in.spec.merge().weights();
}
bool has_list(In in) {
  return !layers(in).list().empty();
}
bool partition_by(In in, const char* method) {
  return uses_emoe(in) && emoe(in).partition().method() == method;
}
int64_t batch(In in) {
  return in.spec.train().global_batch();
}
bool has_rows(In in) {
  return !is_evaluation(in) || !in.spec.data().eval().empty();
}
int64_t positions(In in) {
  return in.shape.max_position_embeddings;
}

// True also when a number is out of range: its own schema row reports that.
bool divides(int64_t divisor, int64_t number) {
  return divisor <= 0 || number <= 0 || number % divisor == 0;
}
bool heads_fit(In in) {
  return divides(init(in).num_attention_heads(), init(in).hidden_size());
}
int64_t head_width(In in) {
  return std::max(init(in).hidden_size(), 0) / std::max(init(in).num_attention_heads(), 1);
}
bool tensor_fits(In in) {
  return divides(in.spec.parallel().tensor(), in.spec.parallel().ranks());
}
// Whether so many ranks can share the model's layers: heads (a key head may be read by several
// ranks), neurons and, of converted layers, experts.
bool can_share(In in, int64_t ranks) {
  const int64_t keys = in.shape.num_key_value_heads;
  const bool key_heads = divides(ranks, keys) || ranks % keys == 0;
  return divides(ranks, in.shape.num_attention_heads) && key_heads &&
         divides(ranks, in.shape.intermediate_size) &&
         divides(ranks, uses_emoe(in) ? emoe(in).experts() : 0);
}
bool shares_layers(In in) {
  return in.spec.parallel().tensor() > 1;
}
std::string sharing_ranks(In in) {
  std::vector<int64_t> counts;
  for (int64_t ranks = 1; ranks <= in.shape.num_attention_heads; ++ranks) {
    if (can_share(in, ranks)) counts.push_back(ranks);
  }
  return absl::StrJoin(counts, ", ");
}
bool no_layer(In in, int64_t layer) {
  return uses_emoe(in) && in.shape.num_hidden_layers > 0 && layer >= in.shape.num_hidden_layers;
}

template <typename List>
bool was_before(const List& list, int i) {
  const auto here = list.begin() + i;
  return std::find(list.begin(), here, *here) != here;
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

// clang-format off
const JobRules& spec_rules() {
  static const JobRules rows{
      {"model.init", [](In in) { return has_path(in) && has_init(in); },
       "give model.path or model.init, not both"},
      {"model.path", [](In in) { return !is_preflight(in) && !has_path(in) && !has_init(in); },
       "is required (a Hugging Face folder), or model.init to train from a random start"},
      {"tuning", [](In in) { return !has_path(in) && has_init(in) && in.spec.tuning() == "lora"; },
       "a random start (model.init) has no base to keep frozen; use tuning: full"},
      {"model.init.num_attention_heads", [](In in) { return !heads_fit(in); },
       "must divide hidden_size ${model.init.hidden_size}, is ${model.init.num_attention_heads}"},
      {"model.init.num_attention_heads", [](In in) { return heads_fit(in) && head_width(in) % 2 != 0; },
       "hidden_size / num_attention_heads must be even (rotary embedding), is ${head width}"},
      {"model.init.num_key_value_heads",
       [](In in) { return !divides(init(in).num_key_value_heads(), init(in).num_attention_heads()); },
       "must divide num_attention_heads ${model.init.num_attention_heads}, is ${model.init.num_key_value_heads}"},
      {"data.train", [](In in) { return in.spec.task() == "train" && in.spec.data().train().empty() && !has_files(in); },
       "is required for task: train"},
      {"data.train_files", [](In in) { return has_files(in) && !in.spec.data().train().empty(); },
       "give train or train_files (a list at train), not both"},
      {"data.eval_fraction", [](In in) { return in.spec.data().has_eval_fraction() && !in.spec.data().eval().empty(); },
       "give data.eval or data.eval_fraction, not both"},
      {"data.template", [](In in) { return in.spec.data().format() == "text" && in.spec.data().template_() != "auto"; },
       "is of no use for format: text, whose rows are read as they are; leave it out"},
      {"data.answers", [](In in) { return in.spec.data().format() != "chat" && in.spec.data().answers() == "last"; },
       "last is for format: chat, whose rows have several answers; leave it out"},
      {"data.fields", [](In in) { return !unknown_fields(in).empty(); },
       "format ${data.format} has no ${unknown fields}; it has ${known fields}"},
      {"data.eval", [](In in) { return is_evaluation(in) && in.spec.data().eval().empty() && !in.spec.has_evaluate(); },
       "is required for task: evaluate (rows), or evaluate.path (a suite)"},
      {"evaluate.subjects", [](In in) { return was_before(in.spec.evaluate().subjects(), in.i); },
       "\"${evaluate.subjects}\" is given twice", JobRule::at_each},
      {"adapter", [](In in) { return is_merge(in) && in.spec.adapter().empty() && !in.spec.has_merge(); },
       "is required for task: merge (a PEFT folder), or merge.adapters for several"},
      {"adapter", [](In in) { return is_merge(in) && !in.spec.adapter().empty() && in.spec.has_merge(); },
       "give adapter or merge.adapters, not both"},
      {"merge.weights", [](In in) { return weights(in).size() > 0 && weights(in).size() != in.spec.merge().adapters_size(); },
       "must have one number for each of merge.adapters, or be left out"},
      {"merge.weights", [](In in) { return weights(in)[in.i] == 0; },
       "is 0: leave the adapter out", JobRule::at_each},
      {"merge.adapters", [](In in) { return was_before(in.spec.merge().adapters(), in.i); },
       "\"${merge.adapters}\" is given twice", JobRule::at_each},
      {"parallel.ranks", [](In in) { return is_single(in) && in.spec.parallel().ranks() > 1; },
       "must be 1 for task: ${task}, which one process does; is ${parallel.ranks}"},
      {"export.original_order", [](In in) { return in.spec.export_().has_original_order() && !in.spec.export_().original_order() && !uses_emoe(in); },
       "is false: without emoe.experts there is no other order of the neurons"},
      {"lora.targets", [](In in) { return was_before(in.spec.lora().targets(), in.i); },
       "\"${lora.targets}\" is given twice", JobRule::at_each},
      {"lora.targets",
       [](In in) { return in.spec.lora().targets(in.i) == kAllLinear && in.spec.lora().targets_size() > 1; },
       "\"all-linear\" is all of them, and stands alone", JobRule::at_each},
      {"emoe.top_k", [](In in) { return uses_emoe(in) && !is_convert(in) && !emoe(in).has_top_k(); },
       "is required with experts: ${emoe.experts} (how many of them a token uses)"},
      {"emoe.top_k", [](In in) { return uses_emoe(in) && emoe(in).top_k() > emoe(in).experts(); },
       "must be at most emoe.experts ${emoe.experts}, is ${emoe.top_k}"},
      {"emoe.selector",
       [](In in) { return uses_emoe(in) && emoe(in).selector() == "not_top" && emoe(in).top_k() == emoe(in).experts(); },
       "not_top with top_k = experts leaves no expert"},
      {"emoe.partition.path",
       [](In in) { return partition_by(in, "file") && emoe(in).partition().path().empty(); },
       "is required with method: file (a partition/ folder)"},
      {"emoe.layers", [](In in) { return uses_emoe(in) && !has_list(in) && !layers(in).has_start(); },
       "is required: {start: 28, every: 2} or {list: [28, 30]}"},
      {"emoe.layers.start", [](In in) { return uses_emoe(in) && has_list(in) && layers(in).has_start(); },
       "give start and every, or list, not both"},
      {"emoe.layers.every",
       [](In in) { return uses_emoe(in) && has_list(in) && !layers(in).has_start() && layers(in).has_every(); },
       "give start and every, or list, not both"},
      {"emoe.layers.list", [](In in) { return uses_emoe(in) && was_before(layers(in).list(), in.i); },
       "layer ${emoe.layers.list} is given twice", JobRule::at_each},
      {"train.epochs",
       [](In in) { return is_training(in.spec) && in.spec.train().epochs() == 0 && in.spec.train().max_steps() == 0; },
       "must be at least 1 unless train.max_steps is above 0"},
      {"parallel.tensor", [](In in) { return !tensor_fits(in); },
       "must divide parallel.ranks ${parallel.ranks}, is ${parallel.tensor}"},
      {"parallel.min_ranks",
       [](In in) { return in.spec.parallel().min_ranks() > in.spec.parallel().ranks(); },
       "must be at most parallel.ranks ${parallel.ranks}, is ${parallel.min_ranks}"},
      {"parallel.min_ranks",
       [](In in) { return tensor_fits(in) && !divides(in.spec.parallel().tensor(), in.spec.parallel().min_ranks()); },
       "must be a multiple of parallel.tensor ${parallel.tensor}, is ${parallel.min_ranks}: ranks that share each layer come and go together"},
      {"train.global_batch",
       [](In in) { return tensor_fits(in) && batch(in) >= 1 && batch(in) < replicas_of(in.spec); },
       "a batch of ${train.global_batch} rows cannot feed ${replicas} ranks; "
       "raise it to at least ${replicas} or lower parallel.ranks"},
  };
  return rows;
}

const JobRules& model_rules() {
  static const JobRules rows{
      {"emoe.experts", [](In in) { return !divides(emoe(in).experts(), in.shape.intermediate_size); },
       "must divide the model's intermediate_size ${intermediate size}, is ${emoe.experts}; "
       "its divisors are ${divisors}"},
      {"emoe.layers.start", [](In in) { return no_layer(in, layers(in).start()); },
       "no layer ${emoe.layers.start}; the model has layers 0 to ${last layer}"},
      {"emoe.layers.list", [](In in) { return no_layer(in, layers(in).list(in.i)); },
       "no layer ${emoe.layers.list}; the model has layers 0 to ${last layer}", JobRule::at_each},
      {"data.max_length",
       [](In in) { return has_rows(in) && positions(in) > 0 && in.spec.data().max_length() > positions(in); },
       "must be at most the model's max_position_embeddings ${positions}, is ${data.max_length}"},
      {"parallel.tensor", [](In in) { return shares_layers(in) && !can_share(in, in.spec.parallel().tensor()); },
       "must divide the model's ${heads} heads, ${key heads} key heads (or be a multiple of them), ${intermediate size} neurons and "
       "the experts, is ${parallel.tensor}; for this job it can be ${sharing ranks}"},
      {"evaluate.max_length",
       [](In in) { return positions(in) > 0 && in.spec.evaluate().max_length() > positions(in); },
       "must be at most the model's max_position_embeddings ${positions}, is ${evaluate.max_length}"},
  };
  return rows;
}

const JobRules& unsupported_rules() {
  static const JobRules rows{
      {"task", [](In in) { return in.spec.task() == "analyze"; },
       "not supported yet: train (which also evaluates data.eval and exports a merged model), evaluate, merge, convert and preflight are"},
      {"emoe.partition.method", [](In in) { return partition_by(in, "coactivation"); },
       "not supported yet: kmeans, random, contiguous and file are"},
      {"emoe.gate", [](In in) { return uses_emoe(in) && emoe(in).gate() == "learned"; },
       "not supported yet: gate: average is (the gate of EMoE)"},
  };
  return rows;
}

const RuleValues& rule_values() {
  static const RuleValues values{
      {"head width", [](In in) { return absl::StrCat(head_width(in)); }},
      {"replicas", [](In in) { return absl::StrCat(replicas_of(in.spec)); }},
      {"heads", [](In in) { return absl::StrCat(in.shape.num_attention_heads); }},
      {"key heads", [](In in) { return absl::StrCat(in.shape.num_key_value_heads); }},
      {"sharing ranks", [](In in) { return sharing_ranks(in); }},
      {"intermediate size", [](In in) { return absl::StrCat(in.shape.intermediate_size); }},
      {"divisors", [](In in) { return divisors_text(in.shape.intermediate_size); }},
      {"last layer", [](In in) { return absl::StrCat(in.shape.num_hidden_layers - 1); }},
      {"unknown fields", [](In in) { return unknown_fields(in); }},
      {"known fields", [](In in) { return known_fields(in); }},
      {"positions", [](In in) { return absl::StrCat(positions(in)); }},
  };
  return values;
}
// clang-format on

}  // namespace emoe::config
