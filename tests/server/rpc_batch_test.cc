// CreateJobs and BackupDatabase over the wire.
#include <filesystem>

#include "server/rpc/grpc_status.h"
#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcBatchTest : public RpcTest {
 protected:
  v1::CreateJobsRequest batch(int jobs) {
    v1::CreateJobsRequest request;
    for (int i = 0; i < jobs; ++i) {
      *request.add_requests() = create_request();
      request.mutable_requests(i)->mutable_spec()->set_name("job " + std::to_string(i));
    }
    return request;
  }
  grpc::Status create(const v1::CreateJobsRequest& request, v1::CreateJobsResponse& response) {
    Context context;
    return jobs_->CreateJobs(&context, request, &response);
  }
};

TEST_F(RpcBatchTest, AllJobsComeInOneCallAndARepeatGetsTheSameAnswer) {
  v1::CreateJobsRequest request = batch(30);
  request.set_request_id("r");
  v1::CreateJobsResponse made;
  const grpc::Status status = create(request, made);
  ASSERT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(made.jobs_size(), 30);
  EXPECT_EQ(made.jobs(7).name(), "job 7");
  EXPECT_FALSE(made.jobs(7).has_spec());
  EXPECT_EQ(get(made.jobs(7).id()).spec().name(), "job 7");
  v1::CreateJobsResponse again;
  ASSERT_TRUE(create(request, again).ok());
  EXPECT_EQ(again.SerializeAsString(), made.SerializeAsString());
  request.mutable_requests(3)->mutable_spec()->set_name("another");
  EXPECT_EQ(reason(create(request, again)), "REQUEST_ID_REUSED");
}

TEST_F(RpcBatchTest, ProblemsNameTheJobAndNothingIsStored) {
  v1::CreateJobsRequest request = batch(3);
  request.mutable_requests(1)->mutable_spec()->mutable_optimizer()->set_learning_rate(-1);
  request.mutable_requests(2)->mutable_spec()->mutable_model()->set_path("/no/such/model");
  v1::CreateJobsResponse made;
  const grpc::Status status = create(request, made);
  EXPECT_EQ(reason(status), "INVALID_SPEC");
  std::set<std::string> fields;
  const auto bad = detail<google::rpc::BadRequest>(status);
  for (const auto& violation : bad.field_violations()) fields.insert(violation.field());
  EXPECT_TRUE(fields.contains("requests[1].spec.optimizer.learning_rate"));
  EXPECT_TRUE(fields.contains("requests[2].spec.model.path"));

  request = batch(2);
  request.mutable_requests(1)->set_request_id("mine");
  EXPECT_EQ(reason(create(request, made)), "INVALID_REQUEST_ID");
  EXPECT_EQ(reason(create(batch(0), made)), "INVALID_SPEC");
  EXPECT_EQ(reason(create(batch(1001), made)), "TOO_MANY_JOBS");
  EXPECT_EQ(reason(create(batch(201), made)), "QUEUE_FULL");
  request = batch(5);
  request.set_validate_only(true);
  ASSERT_TRUE(create(request, made).ok());
  EXPECT_EQ(made.jobs_size(), 5);
  EXPECT_TRUE(made.jobs(0).id().empty());
  EXPECT_TRUE(store_->count_by_state()->empty());
}

TEST_F(RpcBatchTest, ABackupIsAFileWithItsSum) {
  const std::string id = submit();
  Context context;
  v1::BackupDatabaseResponse made;
  const grpc::Status status = jobs_->BackupDatabase(&context, {}, &made);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(made.bytes(), static_cast<int64_t>(std::filesystem::file_size(made.path())));
  EXPECT_EQ(made.sha256().size(), 64U);
  std::filesystem::create_directories(dir_ / "copy");
  std::filesystem::copy_file(made.path(), dir_ / "copy" / "jobs.db");
  const auto copy = JobStore::open({.state_dir = dir_ / "copy"});
  ASSERT_TRUE(copy.ok()) << copy.status();
  EXPECT_TRUE((*copy)->job(id).ok());
}

}  // namespace
}  // namespace emoe::server
