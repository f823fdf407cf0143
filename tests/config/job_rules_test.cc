// The tables of job_rules.cc row by row: a row that no spec can break, or whose key or reason names
// what does not exist, is noticed here. The texts are judged in rules_test.cc.
#include <set>

#include "config/schema.h"
#include "config/validation.h"
#include "tests/config/support.h"

namespace emoe::config {
namespace {

using Overrides = std::vector<std::string>;

struct Table {
  const char* name;
  const JobRules& rules;
  std::vector<Overrides> examples;  // each breaks one row
};

// Breaks no row.
const std::string kGood =
    "model: {path: /m}\ndata: {train: /d.json, max_length: 64}\n"
    "emoe: {experts: 8, top_k: 2, layers: {start: 0, every: 1}}\nparallel: {ranks: 4}\n";
const std::string kInit =
    "model={init: {hidden_size: 64, intermediate_size: 172, num_hidden_layers: 2,"
    " num_attention_heads: 8, num_key_value_heads: 4, tokenizer: /t}}";

const std::vector<Table>& tables() {
  static const std::vector<Table> all{
      {"spec",
       spec_rules(),
       {{kInit, "model.path=/m"},
        {"model.path=null"},
        {kInit, "tuning=lora"},
        {kInit, "tuning=full", "model.init.num_attention_heads=12"},
        {kInit, "tuning=full", "model.init.num_attention_heads=64"},
        {kInit, "tuning=full", "model.init.num_key_value_heads=3"},
        {"data.train=null"},
        {"data.train_files=[/a.json]"},
        {"data.eval_fraction=0.1", "data.eval=/e.json"},
        {"data.format=text", "data.template=chatml"},
        {"data.answers=last"},
        {"data.fields={question: instruction}"},
        {"task=evaluate"},
        {"task=merge", "parallel.ranks=1"},
        {"task=merge", "parallel.ranks=1", "adapter=/a", "merge.adapters=[/b]"},
        {"task=merge", "parallel.ranks=1", "merge={adapters: [/a, /b], weights: [1]}"},
        {"task=merge", "parallel.ranks=1", "merge={adapters: [/a, /b], weights: [1, 0]}"},
        {"task=merge", "parallel.ranks=1", "merge={adapters: [/a, /b, /a]}"},
        {"task=merge", "adapter=/a"},
        {"export.original_order=false", "emoe=null"},
        {"lora.targets=[q_proj, v_proj, q_proj]"},
        {"lora.targets=[all-linear, q_proj]"},
        {"evaluate={path: /e, subjects: [a, b, a]}"},
        {"emoe.top_k=null"},
        {"emoe.top_k=9"},
        {"emoe.top_k=8", "emoe.selector=not_top"},
        {"emoe.partition.method=file"},
        {"emoe.layers=null"},
        {"emoe.layers.list=[1]"},
        {"emoe.layers={every: 1, list: [1]}"},
        {"emoe.layers={list: [2, 1, 2]}"},
        {"train.epochs=0"},
        {"parallel.tensor=3"},
        {"parallel.min_ranks=5"},
        {"parallel.tensor=2", "parallel.min_ranks=3"},
        {"train.global_batch=3"}}},
      {"model",
       model_rules(),
       {{"emoe.experts=5"},
        {"emoe.layers.start=2"},
        {"emoe.layers={list: [0, 2]}"},
        {"data.max_length=65"},
        {"parallel={ranks: 12, tensor: 6}"},
        {"evaluate={path: /e, max_length: 65}"}}},
      {"unsupported",
       unsupported_rules(),
       {{"task=analyze"}, {"emoe.partition.method=coactivation"}, {"emoe.gate=learned"}}},
  };
  return all;
}

// The rows that an example breaks.
std::set<size_t> broken_rows(const Table& table, const Overrides& overrides) {
  const auto job = read_job(kGood, "job.yaml", overrides);
  EXPECT_TRUE(job.ok()) << job.status();
  const v1::JobSpec spec = resolve(job->spec);
  RuleInput in{.spec = spec,
               .shape = {.num_hidden_layers = 2,
                         .intermediate_size = 172 * 8,
                         .max_position_embeddings = 64,
                         .num_attention_heads = 8,
                         .num_key_value_heads = 2}};
  std::set<size_t> broken;
  for (size_t row = 0; row < table.rules.size(); ++row) {
    const JobRule& rule = table.rules[row];
    const int count = rule.where == JobRule::at_each ? find_field(spec, rule.key).size() : 1;
    for (in.i = 0; in.i < count; ++in.i) {
      if (rule.broken(in)) broken.insert(row);
    }
  }
  return broken;
}

TEST(JobRuleTables, EachExampleBreaksOneRowAndEachRowHasAnExample) {
  for (const Table& table : tables()) {
    EXPECT_TRUE(broken_rows(table, {}).empty()) << table.name;
    std::set<size_t> seen;
    for (const Overrides& overrides : table.examples) {
      const auto broken = broken_rows(table, overrides);
      EXPECT_EQ(broken.size(), 1u) << table.name << joined(overrides);
      seen.insert(broken.begin(), broken.end());
    }
    for (size_t row = 0; row < table.rules.size(); ++row) {
      EXPECT_EQ(seen.count(row), 1u) << table.name << ": no example breaks " << table.rules[row].key
                                     << ": " << table.rules[row].reason;
    }
  }
}

// Every key, and every "${…}" of a reason, is one of the schema or one of the values given.
TEST(JobRuleTables, NameKeysThatExist) {
  std::set<std::string> used;
  for (const Table& table : tables()) {
    for (const JobRule& rule : table.rules) {
      EXPECT_TRUE(is_job_key(rule.key)) << rule.key;
      for (size_t at = 0; (at = rule.reason.find("${", at)) != std::string::npos; ++at) {
        const size_t end = rule.reason.find('}', at);
        ASSERT_NE(end, std::string::npos) << rule.reason;
        const std::string name = rule.reason.substr(at + 2, end - at - 2);
        EXPECT_TRUE(is_job_key(name) || rule_values().count(name) > 0) << rule.reason;
        used.insert(name);
      }
    }
  }
  for (const auto& [name, value] : rule_values()) {
    EXPECT_EQ(used.count(name), 1u) << name << " is in no reason";
  }
}

// Long lists are refused before rules search them.
TEST(JobRuleTables, ListsAndLabelsHaveALargestSize) {
  std::string list = "0";
  for (int i = 1; i < 4097; ++i) list += ", " + std::to_string(i / 2);
  const auto lines = rule_problems(kGood, {"emoe.layers={list: [" + list + "]}"});
  EXPECT_EQ(lines.size(), 1u) << joined(lines);
  EXPECT_PROBLEM(lines, "emoe.layers.list: at most 4096 entries, there are 4097");

  std::string labels = "k0: v";
  for (int i = 1; i < 65; ++i) labels += ", k" + std::to_string(i) + ": v";
  EXPECT_PROBLEM(rule_problems(kGood, {"labels={" + labels + "}"}),
                 "labels: at most 64 labels, there are 65");
}

}  // namespace
}  // namespace emoe::config
