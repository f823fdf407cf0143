#include "server/job/admission.h"

#include <set>

#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class AdmissionTest : public ::testing::Test {
 protected:
  void SetUp() override { write_inputs(dir_.path()); }
  // The fields (or places of rows) that are wrong.
  std::multiset<std::string> problems(const v1::JobSpec& spec, const AdmissionConfig& config = {}) {
    const auto admitted = admit(spec, config);
    if (admitted.ok()) return {};
    EXPECT_EQ(admitted.status().code(), StatusCode::kInvalidArgument);
    EXPECT_EQ(error_detail_of(admitted.status()).reason, "INVALID_SPEC");
    std::multiset<std::string> fields;
    for (const Violation& v : violations_of(admitted.status())) {
      fields.insert(v.location.empty() ? v.field : v.location);
    }
    return fields;
  }
  using Fields = std::multiset<std::string>;
  testing::TempDir dir_;
};

TEST_F(AdmissionTest, ReturnsTheResolvedSpec) {
  const auto admitted = admit(small_spec(dir_.path()), {});
  ASSERT_TRUE(admitted.ok()) << admitted.status();
  EXPECT_TRUE(admitted->optimizer().has_learning_rate());
  EXPECT_EQ(admitted->train().max_steps(), 4);
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
    std::ofstream(dir_ / "model" / "config.json") << text;
    return problems(spec);
  };
  EXPECT_EQ(with_config("no json"), Fields{"model.path"});
  EXPECT_EQ(with_config("[]"), Fields{"model.path"});
  EXPECT_EQ(with_config("{}"), (Fields{"model.path", "model.path", "model.path"}));
  EXPECT_EQ(with_config(R"({"num_hidden_layers": "4", "intermediate_size": -1,
                            "max_position_embeddings": 128})"),
            (Fields{"model.path", "model.path"}));
  std::filesystem::remove(dir_ / "model" / "config.json");
  EXPECT_EQ(problems(spec), Fields{"model.path"});
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

}  // namespace
}  // namespace emoe::server
