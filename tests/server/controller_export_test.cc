// ExportCheckpoint, and what a job that exports forbids.
#include "base/attempt_contract.h"
#include "base/file.h"
#include "server/job/errors.h"
#include "tests/server/support.h"

namespace emoe::server {
namespace {

class ExportTest : public ControllerTest {
 protected:
  // A training that has ended and kept the checkpoint of step 2.
  std::string trained_job() {
    const std::string id = submit();
    step();
    step();
    const auto channel = join(id, 0, 1);
    report(channel, 1, step_report(0));
    report(channel, 2, step_report(1));
    const std::filesystem::path folder =
        std::filesystem::path(job(id).output_dir()) / "checkpoints" / "step_00000002";
    std::filesystem::create_directories(folder);
    EXPECT_TRUE(write_file_atomically(folder / kCheckpointManifestFile, "{}").ok());
    v1::CheckpointInfo checkpoint;
    checkpoint.set_step(2);
    checkpoint.set_path(folder.string());
    report(channel, 3, checkpoint);
    finish_well(id, channel, 4);
    EXPECT_EQ(job(id).state(), v1::SUCCEEDED);
    return id;
  }
};

TEST_F(ExportTest, OutputsThatAJobExportsIntoAreNotDeleted) {
  const std::string id = trained_job();
  const auto exported = controller_->export_checkpoint(id, 2, {});
  ASSERT_TRUE(exported.ok()) << exported.status();
  const Status refused = controller_->remove(id, "", true, {});
  const ErrorDetail detail = error_detail_of(refused);
  EXPECT_EQ(detail.reason, "WRONG_STATE");
  EXPECT_EQ(detail.metadata.at("export_job_id"), exported->id());
  EXPECT_NE(std::string(refused.message()).find(exported->id()), std::string::npos) << refused;
  EXPECT_TRUE(std::filesystem::exists(job(id).output_dir()));
  restart();
  EXPECT_EQ(error_detail_of(controller_->remove(id, "", true, {})).reason, "WRONG_STATE");
  ASSERT_TRUE(controller_->cancel(exported->id(), "", {}).ok());
  EXPECT_TRUE(controller_->remove(id, "", true, {}).ok());
}

TEST_F(ExportTest, TheRecordAloneMayGo) {
  const std::string id = trained_job();
  const std::string folder = job(id).output_dir();
  ASSERT_TRUE(controller_->export_checkpoint(id, 2, {}).ok());
  EXPECT_TRUE(controller_->remove(id, "", false, {}).ok());
  EXPECT_TRUE(std::filesystem::exists(folder));
}

TEST_F(ExportTest, IsRefusedWhereThereIsNoRoomUnlessItIsUnderWay) {
  const std::string id = trained_job();
  Controller::ExportRoom room;
  room.plan.mutable_disk()->set_export_bytes(7);
  room.plan.mutable_disk()->set_total_bytes(7);
  room.status = absl::ResourceExhaustedError("full");
  EXPECT_EQ(controller_->export_checkpoint(id, 2, {}, room).status(), room.status);
  room.status = ok_status();
  const auto exported = controller_->export_checkpoint(id, 2, {}, room);
  ASSERT_TRUE(exported.ok()) << exported.status();
  EXPECT_EQ(job(exported->id()).plan().disk().total_bytes(), 7);
  room.status = absl::ResourceExhaustedError("full");
  const auto again = controller_->export_checkpoint(id, 2, {}, room);
  ASSERT_TRUE(again.ok()) << "one that is under way is the answer";
  EXPECT_EQ(again->id(), exported->id());
}

}  // namespace
}  // namespace emoe::server
