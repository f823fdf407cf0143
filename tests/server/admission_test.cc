#include "server/job/admission.h"

#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_replace.h>
#include <sys/stat.h>

#include "base/sha256.h"
#include "format/partition_file.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class AdmissionTest : public ::testing::Test {
 protected:
  void SetUp() override { write_inputs(dir_.path()); }
  // The fields (or places of rows) that are wrong.
  std::multiset<std::string> problems(const v1::JobSpec& spec, const AdmissionConfig& config = {}) {
    Diagnostics diagnostics;
    resolved_ = admit(spec, config, diagnostics);
    reasons_ = std::string(diagnostics.to_status().message());
    std::multiset<std::string> fields;
    for (const Violation& v : diagnostics.violations()) {
      fields.insert(v.location.empty() ? v.field : v.location);
    }
    return fields;
  }
  using Fields = std::multiset<std::string>;
  void write_config(const std::string& text) const {
    std::ofstream(dir_ / "model" / "config.json") << text;
  }
  testing::TempDir dir_;
  v1::JobSpec resolved_;
  std::string reasons_;
};

TEST_F(AdmissionTest, ReturnsTheResolvedSpec) {
  EXPECT_EQ(problems(small_spec(dir_.path())), Fields{}) << reasons_;
  EXPECT_TRUE(resolved_.optimizer().has_learning_rate());
  EXPECT_EQ(resolved_.train().max_steps(), 4);
}

TEST_F(AdmissionTest, OfItsEngineAJobSetsWhatItMay) {
  v1::JobSpec spec = small_spec(dir_.path());
  v1::SlurmOptions& slurm = *spec.mutable_resources()->mutable_slurm();
  slurm.set_partition("gpu");
  slurm.add_extra_args("--mem=8G");
  EXPECT_EQ(problems(spec), Fields{});
  EXPECT_EQ(problems(spec, {.engine = "slurm", .engine_keys = {"partition"}}),
            Fields{"resources.slurm.extra_args"});
  spec.mutable_resources()->mutable_kubernetes()->set_image("mine");
  EXPECT_EQ(problems(spec, {.engine = "kubernetes", .engine_keys = {"queue"}}),
            Fields{"resources.kubernetes.image"});
  EXPECT_NE(reasons_.find("launcher.kubernetes.job_may_set"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, ReportsAllProblemsAtOnce) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_optimizer()->set_learning_rate(-1);
  spec.mutable_data()->set_eval("eval.jsonl");
  std::ofstream(dir_ / "train.jsonl") << "{}\n";
  const Fields found = problems(spec);
  EXPECT_TRUE(found.contains("optimizer.learning_rate"));
  EXPECT_TRUE(found.contains("data.eval"));
  EXPECT_TRUE(found.contains("train.jsonl:1"));
}

TEST_F(AdmissionTest, WhatIsNotReadIsToldAndWithStrictAProblem) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_data()->set_max_length(64);
  std::ofstream(dir_ / "train.jsonl", std::ios::app)
      << R"({"instruction": "a", "output": "b<|end|>", "system": "be brief"})"
      << "\n";
  Diagnostics diagnostics;
  (void)admit(spec, {}, diagnostics);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  ASSERT_EQ(diagnostics.warnings().size(), 3u);
  EXPECT_EQ(diagnostics.warnings()[0].code, warning::kUnreadKey);
  EXPECT_EQ(diagnostics.warnings()[0].first, "train.jsonl:9");
  EXPECT_EQ(diagnostics.warnings()[1].code, warning::kTokenAsText);
  EXPECT_EQ(diagnostics.warnings()[1].first, "train.jsonl:9");
  EXPECT_EQ(diagnostics.warnings()[2].code, warning::kRowsDropped);  // the prompt alone is longer
  spec.mutable_data()->set_strict(true);
  EXPECT_EQ(problems(spec),
            (Fields{"data.train", "data.train: \"<|end|>\"", "data.train: \"system\""}));
  EXPECT_NE(reasons_.find("1 of 9 rows"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, TheDataAreToldInShort) {
  v1::JobSpec spec = small_spec(dir_.path());
  std::ofstream file_of_rows(dir_ / "train.jsonl");
  for (int i = 0; i < 10; ++i) {
    file_of_rows << R"({"prompt": "a)" << i << R"(", "completion": "b"})"
                 << "\n";
  }
  file_of_rows.close();
  spec.mutable_data()->set_format("completion");
  Diagnostics diagnostics;
  Findings found;
  (void)admit(spec, {}, diagnostics, &found);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  EXPECT_EQ(found.data.rows(), 10);
  EXPECT_EQ(found.data.duplicates(), 0);
  EXPECT_EQ(found.data.sampled_rows(), 10);
  EXPECT_EQ(found.data.template_(), "plain");
  EXPECT_GT(found.data.mean_tokens(), 1.0);
  EXPECT_GE(static_cast<double>(found.data.longest_tokens()), found.data.mean_tokens());
  EXPECT_GT(found.data.target_share(), 0.0);
  // A mixture: twice its rows, and what is held out is not among them.
  const std::string file = spec.data().train();
  spec.mutable_data()->clear_train();
  for (int i = 0; i < 2; ++i) spec.mutable_data()->add_train_files()->set_path(file);
  spec.mutable_data()->set_eval_fraction(0.2);
  (void)admit(spec, {}, diagnostics, &found);
  EXPECT_TRUE(diagnostics.empty()) << diagnostics.to_status();
  EXPECT_EQ(found.data.duplicates(), 10);
  EXPECT_EQ(found.data.rows(), 16);
  EXPECT_EQ(found.data.held_out_rows(), 4);
  spec.mutable_data()->mutable_train_files(1)->set_path("/nowhere.jsonl");
  EXPECT_EQ(problems(spec), Fields{"data.train[1]"});
}

TEST_F(AdmissionTest, WhatARowsTemplateDoesNotTakeIsToldWithItsLine) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_data()->set_format("chat");
  spec.mutable_data()->set_template_("mistral");
  std::ofstream(dir_ / "train.jsonl")
      << R"({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]})"
      << "\n"
      << R"({"messages": [{"role": "system", "content": "a"}, {"role": "assistant", "content": "b"}]})"
      << "\n";
  EXPECT_EQ(problems(spec), Fields{"train.jsonl:2"}) << reasons_;
  spec.mutable_data()->set_template_("auto");
  EXPECT_TRUE(problems(spec).contains("data.template"));
  EXPECT_NE(reasons_.find("llama2, llama3, chatml, mistral, alpaca"), std::string::npos);
}

TEST_F(AdmissionTest, ChecksTheSpecAgainstTheModel) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_emoe()->set_experts(48);  // does not divide 64
  spec.mutable_emoe()->set_top_k(4);
  EXPECT_TRUE(problems(spec).contains("emoe.experts"));
  spec.mutable_emoe()->set_experts(16);
  spec.mutable_emoe()->mutable_layers()->add_list(9);
  EXPECT_FALSE(problems(spec).empty());
}

TEST_F(AdmissionTest, ModelFoldersThatAreNone) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const auto with_config = [&](const std::string& text) {
    write_config(text);
    return problems(spec);
  };
  EXPECT_EQ(with_config("no json"), Fields{"model.path"});
  EXPECT_EQ(with_config("[]"), Fields{"model.path"});
  EXPECT_EQ(with_config(std::string(100'000, '[')), Fields{"model.path"});
  const std::string bad = absl::StrReplaceAll(
      testing::small_config().to_json("float32"),
      {{"\"silu\"", "\"gelu\""}, {"\"vocab_size\": 320", "\"vocab_size\": -1"}});
  EXPECT_EQ(with_config(bad), (Fields{"model.path", "model.path"}));
  EXPECT_NE(reasons_.find("config.json: hidden_act: is \"gelu\""), std::string::npos) << reasons_;
  std::filesystem::remove(dir_ / "model" / "config.json");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
}

// A job whose weights cannot be loaded is not queued to fail hours later.
TEST_F(AdmissionTest, TheHeadersOfTheWeightsAreRead) {
  const v1::JobSpec spec = small_spec(dir_.path());
  const auto weights = dir_ / "model" / "model.safetensors";
  DecoderConfig other = testing::small_config();
  other.hidden_size = 16;
  testing::write_model_folder(dir_ / "other", other);
  std::filesystem::copy(dir_ / "other" / "model.safetensors", weights,
                        std::filesystem::copy_options::overwrite_existing);
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(
      reasons_.find("39 tensors have another shape than config.json asks for, e.g. "
                    "model.embed_tokens.weight has shape [320, 16], config.json asks for [320, 8]"),
      std::string::npos)
      << reasons_;
  std::filesystem::resize_file(weights, std::filesystem::file_size(weights) - 1);
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("reach beyond the data"), std::string::npos) << reasons_;
  std::filesystem::remove(weights);
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  testing::write_bytes(dir_ / "model" / kIndexFileName,
                       R"({"weight_map": {"a": "model-00001-of-00001.safetensors"}})");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("model-00001-of-00001.safetensors"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, AModelNeedsItsTokenizer) {
  const v1::JobSpec spec = small_spec(dir_.path());
  std::filesystem::remove(dir_ / "model" / "tokenizer.model");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("has neither a tokenizer.model nor a tokenizer.json"), std::string::npos)
      << reasons_;
  const auto file = dir_ / "model" / "tokenizer.json";
  ASSERT_TRUE(write_file_atomically(file, R"({"model": {"type": "Unigram"}})").ok());
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("only BPE is supported"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, FilesMustBeAbsoluteThereAndAllowed) {
  v1::JobSpec spec = small_spec(dir_.path());
  EXPECT_EQ(problems(spec, {{dir_.path()}}), Fields{});
  EXPECT_EQ(problems(spec, {{dir_.path().string() + "/"}}), Fields{});
  EXPECT_EQ(problems(spec, {{"/usr", dir_.path()}}), Fields{});
  EXPECT_EQ(problems(spec, {{"/usr"}}), (Fields{"data.train", "model.path"}));
  // A folder whose name begins like an allowed one is another folder.
  EXPECT_EQ(problems(spec, {{dir_.path().string().substr(0, dir_.path().string().size() - 1)}}),
            (Fields{"data.train", "model.path"}));
  spec.mutable_data()->set_train((dir_ / "none.jsonl").string());
  EXPECT_EQ(problems(spec), Fields{"data.train"});
  spec.mutable_data()->set_train("train.jsonl");
  EXPECT_EQ(problems(spec), Fields{"data.train"});
}

TEST_F(AdmissionTest, LinksThatLeadOutAreRefused) {
  std::filesystem::create_directories(dir_ / "in" / "model");
  write_inputs(dir_ / "in");
  v1::JobSpec spec = small_spec(dir_ / "in");
  std::filesystem::create_symlink(dir_ / "train.jsonl", dir_ / "in" / "out.jsonl");
  spec.mutable_data()->set_train((dir_ / "in" / "out.jsonl").string());
  EXPECT_EQ(problems(spec, {{dir_ / "in"}}), Fields{"data.train"});
  // A link as the root itself is fine.
  std::filesystem::create_directory_symlink(dir_ / "in", dir_ / "root");
  EXPECT_EQ(problems(small_spec(dir_ / "in"), {{dir_ / "root"}}), Fields{});
}

// A wrong value is one problem, whoever could find it.
TEST_F(AdmissionTest, NothingIsReportedTwice) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_data()->set_format("alpacca");
  spec.mutable_data()->set_eval((dir_ / "train.jsonl").string());
  EXPECT_EQ(problems(spec), Fields{"data.format"});
  spec.mutable_data()->set_format("alpaca");
  spec.mutable_model()->clear_path();
  v1::ModelInit& init = *spec.mutable_model()->mutable_init();
  init.set_hidden_size(16);
  init.set_intermediate_size(40);
  init.set_num_hidden_layers(2);
  init.set_num_attention_heads(2);
  init.set_tokenizer((dir_ / "model/tokenizer.model").string());
  spec.set_tuning("full");
  spec.mutable_emoe()->set_experts(16);
  spec.mutable_emoe()->set_top_k(4);
  spec.mutable_emoe()->mutable_layers()->set_start(2);
  EXPECT_EQ(problems(spec), (Fields{"emoe.experts", "emoe.layers.start"})) << reasons_;
}

TEST_F(AdmissionTest, RowsOfFilesOfOneNameAreToldApart) {
  v1::JobSpec spec = small_spec(dir_.path());
  std::filesystem::create_directories(dir_ / "eval");
  spec.mutable_data()->set_eval((dir_ / "eval" / "train.jsonl").string());
  for (const auto& file : {dir_ / "train.jsonl", dir_ / "eval" / "train.jsonl"}) {
    std::ofstream(file) << "7\n";
  }
  EXPECT_EQ(problems(spec), (Fields{"train.jsonl:1", "train.jsonl:1"}));
  EXPECT_NE(reasons_.find("train.jsonl:1: data.train: line 1"), std::string::npos) << reasons_;
  EXPECT_NE(reasons_.find("train.jsonl:1: data.eval: line 1"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, WidthsBeyondReasonEndAtOnce) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_emoe()->set_experts(64);
  spec.mutable_emoe()->set_top_k(4);
  spec.mutable_emoe()->mutable_layers()->set_start(0);
  const auto with_width = [&](const std::string& width) {
    write_config(absl::StrReplaceAll(
        testing::small_config().to_json("float32"),
        {{"\"intermediate_size\": 64", absl::StrCat("\"intermediate_size\": ", width)}}));
    return problems(spec);
  };
  for (const char* width :
       {"9223372036854775807", "18446744073709551615", "2147483649", "0", "-4", "64.0", "1e3"}) {
    EXPECT_EQ(with_width(width), Fields{"model.path"}) << width;
  }
  EXPECT_EQ(with_width("2147483647").count("emoe.experts"), 1u);  // a prime
  EXPECT_NE(reasons_.find("its divisors are 1, 2147483647"), std::string::npos) << reasons_;
  EXPECT_EQ(with_width("1102701600").count("emoe.experts"), 1u);  // has 1440 of them
  EXPECT_LT(reasons_.size(), 5000u);
  write_config(std::string(5 << 20, ' ') + "{}");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("larger than"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, WhatWouldBlockIsNoFile) {
  v1::JobSpec spec = small_spec(dir_.path());
  ASSERT_EQ(mkfifo((dir_ / "pipe.jsonl").c_str(), 0600), 0);
  spec.mutable_data()->set_train((dir_ / "pipe.jsonl").string());
  EXPECT_EQ(problems(spec), Fields{"data.train"});
  EXPECT_NE(reasons_.find("is not a regular file"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, ABatchNeedsItsRows) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_train()->set_global_batch(9);
  EXPECT_EQ(problems(spec), Fields{"train.global_batch"});
  EXPECT_NE(reasons_.find("has only 8 usable rows"), std::string::npos) << reasons_;
  spec.mutable_train()->set_drop_last(false);
  EXPECT_EQ(problems(spec), Fields{});
  spec.mutable_train()->set_drop_last(true);
  spec.mutable_train()->set_global_batch(8);
  spec.mutable_data()->set_fraction(0.8);  // 7 rows
  EXPECT_EQ(problems(spec), Fields{"train.global_batch"});
}

TEST_F(AdmissionTest, AnEvaluationNeedsHeldOutRowsAndAnAdapterThatCanBeRead) {
  v1::JobSpec spec;
  spec.set_task("evaluate");
  spec.mutable_model()->set_path((dir_ / "model").string());
  spec.mutable_data()->set_max_length(64);
  EXPECT_EQ(problems(spec), Fields{"data.eval"});
  spec.mutable_data()->set_eval((dir_ / "train.jsonl").string());
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
  EXPECT_FALSE(resolved_.has_export_() || resolved_.has_optimizer());

  spec.set_adapter((dir_ / "adapter").string());
  EXPECT_EQ(problems(spec), Fields{"adapter"});
  std::filesystem::create_directories(dir_ / "adapter");
  EXPECT_EQ(problems(spec), (Fields{"adapter", "adapter"})) << "neither of its files";
  testing::write_adapter_folder(dir_ / "adapter", testing::small_config());
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
  std::ofstream(dir_ / "adapter/adapter_config.json")
      << R"({"peft_type": "LORA", "r": 0, "target_modules": ["q_proj"]})";
  EXPECT_EQ(problems(spec), Fields{"adapter"});
  EXPECT_NE(reasons_.find("adapter_config.json: r: is 0"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, ASuitesQuestionsAreRead) {
  v1::JobSpec spec = small_spec(dir_.path());
  spec.mutable_evaluate()->set_path((dir_ / "suite").string());
  EXPECT_EQ(problems(spec), Fields{"evaluate.path"});
  for (const char* file : {"dev/birds_dev.csv", "test/birds_test.csv"}) {
    std::filesystem::create_directories((dir_ / ("suite/" + std::string(file))).parent_path());
    std::ofstream(dir_ / ("suite/" + std::string(file))) << "Which?,a,b,c,d,C\n";
  }
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
  spec.mutable_evaluate()->add_subjects("fish");
  EXPECT_EQ(problems(spec), (Fields{"evaluate.path", "evaluate.path"}));
  spec.mutable_evaluate()->clear_subjects();
  const auto questions = dir_ / "suite/test/birds_test.csv";
  std::ofstream(questions) << "Which?,a,b,c,d,C\nWhich?,a,b\n";
  EXPECT_EQ(problems(spec), Fields{questions.string() + ":2"});
  std::filesystem::remove(questions);
  std::filesystem::create_symlink("/etc/hostname", questions);
  EXPECT_EQ(problems(spec, {.allowed_roots = {dir_.path()}}), Fields{"evaluate.path"});
  EXPECT_NE(reasons_.find("lies outside the allowed folders"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, AConversionBackNeedsTheOrderBefore) {
  v1::JobSpec spec;
  spec.set_task("convert");
  spec.mutable_model()->set_path((dir_ / "model").string());
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("give emoe.experts to make experts"), std::string::npos) << reasons_;
}

// What the worker would say in attempt 1, and by the same code.
TEST_F(AdmissionTest, AnAdapterOfAnotherModelOrOfOtherSettingsIsRefused) {
  DecoderConfig longer = testing::small_config();
  longer.num_hidden_layers = 5;
  v1::JobSpec spec = small_spec(dir_.path());
  v1::Lora& lora = *spec.mutable_lora();
  lora.set_rank(2);
  lora.set_alpha(4);
  lora.add_targets("q_proj");
  lora.set_init_adapter((dir_ / "adapter").string());
  testing::write_adapter_folder(dir_ / "adapter", testing::small_config());
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
  lora.set_rank(8);
  EXPECT_EQ(problems(spec), Fields{"lora.init_adapter"});
  EXPECT_NE(reasons_.find("r: is 2, lora.rank is 8"), std::string::npos) << reasons_;
  lora.set_rank(2);
  testing::write_adapter_folder(dir_ / "adapter", longer);
  EXPECT_EQ(problems(spec), Fields{"lora.init_adapter"});
  EXPECT_NE(reasons_.find("layers.4.self_attn.q_proj.lora_A.weight: and 1 more are in the adapter"),
            std::string::npos)
      << reasons_;
  spec.set_tuning("full");  // which takes none
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
}

TEST_F(AdmissionTest, ATokenizerIsOpened) {
  const v1::JobSpec spec = small_spec(dir_.path());
  testing::write_bytes(dir_ / "model/tokenizer.model", "no tokenizer");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("tokenizer.model: is no SentencePiece model"), std::string::npos)
      << reasons_;
  DecoderConfig small = testing::small_config();
  small.vocab_size = 200;
  testing::write_model_folder(dir_ / "model", small);
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("has 300 pieces"), std::string::npos) << reasons_;
  DecoderConfig other_end = testing::small_config();
  other_end.eos_token_ids = {7};
  testing::write_model_folder(dir_ / "model", other_end);
  EXPECT_EQ(problems(spec), Fields{"model.path"});
  EXPECT_NE(reasons_.find("generated text would not stop"), std::string::npos) << reasons_;
}

TEST_F(AdmissionTest, APartitionIsOpenedAndOfTheseWeights) {
  v1::JobSpec spec = small_spec(dir_.path());
  v1::Emoe& emoe = *spec.mutable_emoe();
  emoe.set_experts(4);
  emoe.set_top_k(2);
  emoe.mutable_layers()->add_list(1);
  emoe.mutable_layers()->add_list(2);
  emoe.mutable_partition()->set_method("file");
  emoe.mutable_partition()->set_path((dir_ / "partition").string());
  Partition partition{.num_experts = 4};
  for (int32_t i = 0; i < 64; ++i) partition.labels.push_back(i % 4);
  const auto write = [&](int64_t layer) {
    ASSERT_TRUE(write_partition(dir_ / "partition", layer, partition).ok());
  };
  partition.weight_hash = sha256_hex(std::string(64 * 8 * 4, '\0'));  // gate_proj [64, 8] of zeros
  write(1);
  EXPECT_EQ(problems(spec), Fields{"emoe.partition.path"});
  EXPECT_NE(reasons_.find("layer_02.json"), std::string::npos) << reasons_;
  write(2);
  EXPECT_EQ(problems(spec), Fields{}) << reasons_;
  partition.weight_hash = "other";
  write(1);
  EXPECT_EQ(problems(spec), Fields{"emoe.partition.path"});
  EXPECT_NE(reasons_.find("layer_01.json: was made from other weights"), std::string::npos)
      << reasons_;
  emoe.set_experts(8);
  EXPECT_EQ(problems(spec), (Fields{"emoe.partition.path", "emoe.partition.path"}));
  EXPECT_NE(reasons_.find("has 4 experts of 64 neurons, the job wants 8 of 64"), std::string::npos)
      << reasons_;
}

TEST_F(AdmissionTest, RootsThatCannotBeResolvedAllowNothing) {
  const v1::JobSpec spec = small_spec(dir_.path());
  std::filesystem::create_symlink(dir_ / "loop", dir_ / "loop");
  for (const std::filesystem::path& root :
       {dir_ / "loop", dir_ / "none", std::filesystem::path()}) {
    EXPECT_EQ(problems(spec, {{root}}), (Fields{"data.train", "model.path"})) << root;
  }
  EXPECT_EQ(problems(spec, {{dir_ / "loop", dir_.path()}}), Fields{});
}

TEST_F(AdmissionTest, LinksInsideAFolderThatLeadOutAreRefused) {
  const auto in = dir_ / "in";
  std::filesystem::create_directories(in);
  write_inputs(in);
  testing::write_adapter_folder(in / "adapter", testing::small_config());
  v1::JobSpec spec = small_spec(in);
  spec.mutable_lora()->set_rank(2);
  spec.mutable_lora()->set_alpha(4);
  spec.mutable_lora()->add_targets("q_proj");
  spec.mutable_lora()->set_init_adapter((in / "adapter").string());
  spec.mutable_emoe()->set_experts(2);
  spec.mutable_emoe()->set_top_k(1);
  spec.mutable_emoe()->mutable_layers()->add_list(3);
  Partition partition{.num_experts = 2, .labels = std::vector<int32_t>(64, 0)};
  std::fill_n(partition.labels.begin(), 32, 1);
  ASSERT_TRUE(write_partition(in / "partition", 3, partition).ok());
  spec.mutable_emoe()->mutable_partition()->set_method("file");
  spec.mutable_emoe()->mutable_partition()->set_path((in / "partition").string());
  const auto with_link = [&](const std::string& link, const std::filesystem::path& target) {
    std::filesystem::create_symlink(target, in / link);
    const Fields found = problems(spec, {{in}});
    std::filesystem::remove(in / link);
    return found;
  };
  EXPECT_EQ(problems(spec, {{in}}), Fields{}) << reasons_;
  const auto outside = dir_ / "train.jsonl";
  std::filesystem::rename(in / "model/model.safetensors", in / "weights");
  EXPECT_EQ(with_link("model/model.safetensors", outside), Fields{"model.path"});
  std::filesystem::create_symlink(in / "weights", in / "model/model.safetensors");
  std::filesystem::remove(in / "model/tokenizer.model");
  EXPECT_EQ(with_link("model/tokenizer.model", "/etc/passwd"), Fields{"model.path"});
  testing::write_bytes(in / "model/tokenizer.model", testing::tiny_tokenizer_bytes());
  std::filesystem::remove(in / "adapter/adapter_config.json");
  EXPECT_EQ(with_link("adapter/adapter_config.json", outside), Fields{"lora.init_adapter"});
  testing::write_adapter_folder(in / "adapter", testing::small_config());
  EXPECT_EQ(with_link("partition/layer_00.json", "../../train.jsonl"),
            Fields{"emoe.partition.path"});
  EXPECT_EQ(with_link("model/README.md", outside), Fields{}) << "nothing reads it";
}

TEST_F(AdmissionTest, WithRootsTheSpecSaysWhereLinksLead) {
  const auto in = dir_ / "in";
  std::filesystem::create_directories(in);
  write_inputs(in);
  std::filesystem::create_directory_symlink(in / "model", in / "newest");
  v1::JobSpec spec = small_spec(in);
  spec.mutable_model()->set_path((in / "newest").string());
  EXPECT_EQ(problems(spec, {{in}}), Fields{});
  EXPECT_EQ(resolved_.model().path(), std::filesystem::canonical(in / "model").string());
  EXPECT_EQ(problems(spec), Fields{});
  EXPECT_EQ(resolved_.model().path(), (in / "newest").string());
}

}  // namespace
}  // namespace emoe::server
