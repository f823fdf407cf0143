#include <cmath>
#include <random>

#include <google/protobuf/util/message_differencer.h>

#include "emoe/v1/job.pb.h"
#include "tests/config/support.h"

namespace emoe::config {
namespace {

bool same(const v1::JobSpec& a, const v1::JobSpec& b) {
  return google::protobuf::util::MessageDifferencer::Equals(a, b);
}

TEST(MessageText, YamlReadsBackExactly) {
  v1::JobSpec spec;
  spec.set_name("a: #tricky\n\"name\"\t\x7f 🦙");
  spec.mutable_model()->set_path("/with space/x");
  spec.mutable_data()->set_train("true");
  spec.mutable_data()->set_eval("123");
  spec.set_tuning("no");
  spec.mutable_lora()->add_targets("- x");
  spec.mutable_lora()->add_targets("");
  spec.mutable_emoe()->mutable_layers()->add_list(3);
  spec.mutable_emoe()->mutable_partition();
  spec.mutable_resources()->mutable_max_runtime()->set_nanos(250'000'000);
  (*spec.mutable_labels())["~"] = "null";
  (*spec.mutable_labels())["a b: c"] = "'";
  const auto job = read_job(message_to_yaml(spec), "job.yaml", {});
  ASSERT_TRUE(job.ok()) << job.status() << message_to_yaml(spec);
  EXPECT_TRUE(same(job->spec, spec)) << message_to_yaml(spec);
}

TEST(MessageText, DoublesKeepEveryBit) {
  std::mt19937_64 random(7);
  for (int i = 0; i < 2000; ++i) {
    const uint64_t bits = random();
    double value = 0.0;
    std::memcpy(&value, &bits, sizeof value);
    if (std::isnan(value)) continue;
    v1::JobSpec spec;
    spec.mutable_optimizer()->set_learning_rate(value);
    const auto job = read_job(message_to_yaml(spec), "job.yaml", {});
    ASSERT_TRUE(job.ok()) << message_to_yaml(spec) << job.status();
    ASSERT_EQ(job->spec.optimizer().learning_rate(), value) << message_to_yaml(spec);
  }
}

TEST(MessageText, ResolvedSpecsRoundTrip) {
  const auto spec =
      resolve(read_job("model: {path: m}\ndata: {train: d}\nemoe: {experts: 4, top_k: 2, "
                       "layers: {list: [0]}}\nlabels: {z: a, b: c}",
                       "j", {})
                  ->spec);
  EXPECT_TRUE(same(read_job(message_to_yaml(spec), "j", {})->spec, spec));
}

TEST(MessageText, ChangedKeysAreNamedWithBothValues) {
  v1::JobSpec before;
  before.mutable_train()->set_max_steps(8);
  before.mutable_lora()->add_targets("q_proj");
  before.mutable_data()->set_max_length(64);
  v1::JobSpec now = before;
  EXPECT_TRUE(changed_keys(message_to_yaml(before), message_to_yaml(now)).empty());
  now.mutable_train()->set_max_steps(12);
  now.mutable_lora()->add_targets("v_proj");
  now.clear_data();
  now.set_tuning("full");
  EXPECT_EQ(changed_keys(message_to_yaml(before), message_to_yaml(now)),
            (std::vector<std::string>{"lora.targets is [q_proj, v_proj], was [q_proj]",
                                      "train.max_steps is 12, was 8", "tuning is full, was not set",
                                      "data.max_length is not set, was 64"}));
}

TEST(MessageText, JsonIsStableForScripts) {
  v1::Job job;
  job.set_id("job-1");
  job.set_state(v1::RUNNING);
  job.mutable_create_time()->set_seconds(1'700'000'000);
  job.mutable_progress()->set_tokens(1LL << 40);
  job.mutable_progress()->set_loss(std::numeric_limits<double>::infinity());
  const std::string json = message_to_json(job);
  EXPECT_NE(json.find("\"id\": \"job-1\""), std::string::npos) << json;
  EXPECT_NE(json.find("\"state\": \"RUNNING\""), std::string::npos);
  EXPECT_NE(json.find("\"reason\": \"REASON_UNSPECIFIED\""), std::string::npos);
  EXPECT_NE(json.find("\"create_time\": \"2023-11-14T22:13:20Z\""), std::string::npos);
  EXPECT_NE(json.find("\"tokens\": 1099511627776"), std::string::npos);
  EXPECT_NE(json.find("\"loss\": \"Infinity\""), std::string::npos);
  EXPECT_NE(json.find("\"attempts\": []"), std::string::npos);
  EXPECT_EQ(json.find("\"merge\""), std::string::npos);
}

TEST(MessageText, ListsOfMessagesInYaml) {
  v1::Job job;
  job.set_id("x");
  job.add_attempts()->set_number(1);
  const std::string yaml = message_to_yaml(job);
  EXPECT_NE(yaml.find("attempts:\n  -\n    number: 1\n"), std::string::npos) << yaml;
}

TEST(Paths, RelativeOnesBecomeAbsolute) {
  auto spec = read_job(
                  "model: {path: ../m/./x}\ndata: {train: /d.json, eval: \"\"}\n"
                  "emoe: {experts: 2, partition: {path: p/}}",
                  "j", {})
                  ->spec;
  make_paths_absolute(spec, "/home/me");
  std::vector<std::pair<std::string, std::string>> paths;
  change_paths(spec, [&](const std::string& key, const std::string& path) {
    paths.emplace_back(key, path);
    return path + "!";
  });
  using Paths = std::vector<std::pair<std::string, std::string>>;
  // ".." behind a symbolic link is not where the text says: the kernel decides, as for the worker.
  EXPECT_EQ(paths, (Paths{{"model.path", "/home/me/../m/x"},
                          {"data.train", "/d.json"},
                          {"emoe.partition.path", "/home/me/p"}}));
  EXPECT_EQ(spec.data().eval(), "");
}

}  // namespace
}  // namespace emoe::config
