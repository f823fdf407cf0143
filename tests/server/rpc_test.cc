// The API's habits: errors with details, repeats, paging, masks, health, reflection.
#include <google/protobuf/util/message_differencer.h>

#include "base/file.h"
#include "server/rpc/grpc_status.h"
#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcApiTest : public RpcTest {};

TEST_F(RpcApiTest, ABadSpecComesBackWithEveryViolationAndStoresNothing) {
  std::ofstream(dir_ / "train.jsonl") << "{\"instruction\": \"a\", \"output\": \"b\"}\n[1]\n\n{}\n";
  v1::CreateJobRequest request = create_request();
  request.mutable_spec()->mutable_optimizer()->set_learning_rate(-1);
  request.mutable_spec()->mutable_model()->set_path("relative/model");
  request.mutable_spec()->mutable_data()->set_eval("/no/such/file.jsonl");
  Context context;
  v1::Job job;
  const grpc::Status status = jobs_->CreateJob(&context, request, &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_EQ(reason(status), "INVALID_SPEC");
  EXPECT_EQ(detail<google::rpc::ErrorInfo>(status).domain(), "emoe.v1");
  std::set<std::string> fields;
  const auto bad = detail<google::rpc::BadRequest>(status);
  for (const auto& violation : bad.field_violations()) {
    fields.insert(violation.field());
  }
  for (const char* field :
       {"optimizer.learning_rate", "model.path", "data.eval", "train.jsonl:2", "train.jsonl:4"}) {
    EXPECT_TRUE(fields.contains(field)) << field;
  }
  EXPECT_FALSE(fields.contains("train.jsonl:3")) << "a blank line is no row";
  EXPECT_TRUE(store_->count_by_state()->empty());
}

TEST_F(RpcApiTest, ManyViolationsStillFitIntoTheAnswer) {
  std::string rows;
  for (int i = 0; i < 500; ++i) {  // each with a fault of its own: the same one would be counted
    rows += "{\"instruction\": \"\xc3\xa9\", \"key " + std::to_string(i) + "\": 1}\n";
  }
  std::ofstream(dir_ / "train.jsonl") << rows;
  Context context;
  v1::Job job;
  const grpc::Status status = jobs_->CreateJob(&context, create_request(), &job);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  const auto bad = detail<google::rpc::BadRequest>(status);
  const int sent = bad.field_violations_size() - 1;
  EXPECT_GT(sent, 20);
  EXPECT_EQ(bad.field_violations(sent).description(),
            "and " + std::to_string(500 - sent) + " more problems that do not fit into the answer");
}

// A client refuses headers of more than 8 KiB: it would see RESOURCE_EXHAUSTED and no details.
TEST_F(RpcApiTest, WhatAClientSentDoesNotOverflowTheAnswer) {
  std::string long_id;
  while (long_id.size() < 20'000) long_id += "\xc3\xa9%";
  v1::GetJobRequest get_request;
  get_request.set_id(long_id);
  Context contexts[3];
  v1::Job job;
  EXPECT_EQ(reason(jobs_->GetJob(&contexts[0], get_request, &job)), "JOB_NOT_FOUND");
  v1::UpdateJobRequest update;
  update.set_id(long_id);
  update.mutable_spec()->set_name("x");
  update.mutable_update_mask()->add_paths("name");
  EXPECT_EQ(reason(jobs_->UpdateJob(&contexts[1], update, &job)), "JOB_NOT_FOUND");
  update.mutable_update_mask()->add_paths(long_id);
  for (int i = 0; i < 100; ++i)
    update.mutable_update_mask()->add_paths(long_id + std::to_string(i));
  const grpc::Status refused = jobs_->UpdateJob(&contexts[2], update, &job);
  EXPECT_EQ(reason(refused), "INVALID_UPDATE_MASK");
  EXPECT_GT(detail<google::rpc::BadRequest>(refused).field_violations_size(), 5);
}

TEST_F(RpcApiTest, ABadRequestIdComesWithTheRest) {
  v1::CreateJobRequest request = create_request();
  request.set_request_id(std::string(129, 'x'));
  const auto create = [&](bool validate_only) {
    request.set_validate_only(validate_only);
    Context context;
    v1::Job job;
    return jobs_->CreateJob(&context, request, &job);
  };
  EXPECT_EQ(reason(create(true)), "INVALID_REQUEST_ID");
  EXPECT_EQ(reason(create(false)), "INVALID_REQUEST_ID");
  request.mutable_spec()->mutable_train()->set_epochs(-1);
  const grpc::Status both = create(false);
  EXPECT_EQ(reason(both), "INVALID_SPEC");
  const auto bad = detail<google::rpc::BadRequest>(both);
  ASSERT_EQ(bad.field_violations_size(), 2);
  EXPECT_EQ(bad.field_violations(0).field(), "request_id");
  EXPECT_EQ(bad.field_violations(1).field(), "train.epochs");
}

TEST(GrpcStatus, AnExceptionIsAnInternalErrorWithItsDetails) {
  const Status status =
      without_exceptions([]() -> Status { throw std::out_of_range("number 406"); });
  EXPECT_EQ(status.code(), StatusCode::kInternal);
  EXPECT_NE(std::string(status.message()).find("number 406"), std::string::npos);
  google::rpc::Status rich;
  ASSERT_TRUE(rich.ParseFromString(to_grpc(status).error_details()));
  google::rpc::ErrorInfo info;
  ASSERT_TRUE(rich.details(0).UnpackTo(&info));
  EXPECT_EQ(info.reason(), "INTERNAL");
  EXPECT_TRUE(without_exceptions([] { return ok_status(); }).ok());
}

TEST_F(RpcApiTest, ValidateOnlyStoresNothing) {
  v1::CreateJobRequest request = create_request();
  request.set_validate_only(true);
  request.set_request_id("v");
  Context context;
  v1::Job job;
  ASSERT_TRUE(jobs_->CreateJob(&context, request, &job).ok());
  EXPECT_EQ(job.id(), "");
  EXPECT_EQ(job.resolved_spec().train().max_steps(), 4);
  EXPECT_TRUE(job.resolved_spec().optimizer().has_learning_rate());
  EXPECT_TRUE(store_->count_by_state()->empty());
}

TEST_F(RpcApiTest, RepeatsReturnTheFirstAnswerEvenAfterARestart) {
  v1::CreateJobRequest request = create_request();
  (*request.mutable_spec()->mutable_labels())["team"] = "research";
  (*request.mutable_spec()->mutable_labels())["run"] = "1";
  request.set_request_id("once");
  const auto create = [&](v1::Job& job) {
    Context context;
    return jobs_->CreateJob(&context, request, &job);
  };
  v1::Job first;
  ASSERT_TRUE(create(first).ok());
  stop();
  start();
  std::filesystem::remove(dir_ / "train.jsonl");  // what was admitted once stays answered
  v1::Job again;
  ASSERT_TRUE(create(again).ok());
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(again, first));
  request.mutable_spec()->set_name("other");
  const grpc::Status reused = create(again);
  EXPECT_EQ(reused.error_code(), grpc::StatusCode::ALREADY_EXISTS);
  EXPECT_EQ(reason(reused), "REQUEST_ID_REUSED");
}

TEST_F(RpcApiTest, ConcurrentRepeatsMakeOneJob) {
  v1::CreateJobRequest request = create_request();
  request.set_request_id("race");
  std::mutex mutex;
  std::set<std::string> ids;
  {
    std::vector<std::jthread> clients;
    for (int i = 0; i < 8; ++i) {
      clients.emplace_back([&] {
        Context context;
        v1::Job job;
        const grpc::Status status = jobs_->CreateJob(&context, request, &job);
        EXPECT_TRUE(status.ok()) << status.error_message();
        const std::lock_guard lock(mutex);
        ids.insert(job.id());
      });
    }
  }
  EXPECT_EQ(ids.size(), 1U);
}

TEST_F(RpcApiTest, PathsOutsideTheAllowedRootsAreRefusedAlsoThroughLinks) {
  stop();
  std::filesystem::create_directories(dir_ / "allowed");
  write_inputs(dir_ / "allowed");
  std::filesystem::create_symlink(dir_ / "train.jsonl", dir_ / "allowed" / "link.jsonl");
  rpc_config_.admission.allowed_roots = {dir_ / "allowed"};
  start();
  v1::CreateJobRequest request;
  *request.mutable_spec() = small_spec(dir_ / "allowed");
  Context context;
  v1::Job job;
  EXPECT_TRUE(jobs_->CreateJob(&context, request, &job).ok());
  for (const auto& path : {dir_ / "train.jsonl", dir_ / "allowed" / "link.jsonl",
                           dir_ / "allowed" / ".." / "train.jsonl"}) {
    request.mutable_spec()->mutable_data()->set_train(path.string());
    Context refused_context;
    const grpc::Status status = jobs_->CreateJob(&refused_context, request, &job);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT) << path;
    EXPECT_EQ(detail<google::rpc::BadRequest>(status).field_violations(0).field(), "data.train");
  }
}

TEST_F(RpcApiTest, TooManyRanksAndTheQueueLimit) {
  Context context;
  v1::Job job;
  const grpc::Status wide = jobs_->CreateJob(&context, create_request(3), &job);
  EXPECT_EQ(wide.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_EQ(reason(wide), "NOT_ENOUGH_SLOTS");
  stop();
  config_.max_jobs = 1;
  start();
  submit();
  Context full_context;
  const grpc::Status full = jobs_->CreateJob(&full_context, create_request(), &job);
  EXPECT_EQ(full.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(detail<google::rpc::QuotaFailure>(full).violations(0).subject(), "queue.max_jobs");
  EXPECT_GT(detail<google::rpc::RetryInfo>(full).retry_delay().seconds(), 0);
  v1::CreateJobRequest checked = create_request();
  checked.set_validate_only(true);
  Context checked_context;
  EXPECT_EQ(reason(jobs_->CreateJob(&checked_context, checked, &job)), "QUEUE_FULL");
}

TEST_F(RpcApiTest, ListsInPagesThatSurviveChanges) {
  std::vector<std::string> ids;
  for (int i = 0; i < 7; ++i) ids.push_back(submit());
  v1::ListJobsRequest request;
  request.set_page_size(3);
  request.set_order_by("create_time");
  std::vector<std::string> seen;
  do {
    Context context;
    v1::ListJobsResponse page;
    ASSERT_TRUE(jobs_->ListJobs(&context, request, &page).ok());
    for (const v1::Job& job : page.jobs()) {
      seen.push_back(job.id());
      EXPECT_FALSE(job.has_spec());
    }
    request.set_page_token(page.next_page_token());
    if (seen.size() == 3) {  // one more in between does not move the pages
      stop();
      start();
      ids.push_back(submit());
    }
  } while (!request.page_token().empty());
  EXPECT_EQ(seen, ids);
}

TEST_F(RpcApiTest, ListRequestsThatDoNotParseAreErrors) {
  const auto list = [&](const std::function<void(v1::ListJobsRequest&)>& fill) {
    v1::ListJobsRequest request;
    fill(request);
    Context context;
    v1::ListJobsResponse response;
    return reason(jobs_->ListJobs(&context, request, &response));
  };
  EXPECT_EQ(list([](auto& r) { r.set_page_size(-1); }), "INVALID_PAGE_SIZE");
  EXPECT_EQ(list([](auto& r) { r.set_page_token("x"); }), "INVALID_PAGE_TOKEN");
  EXPECT_EQ(list([](auto& r) { r.set_filter("owner=me"); }), "INVALID_FILTER");
  EXPECT_EQ(list([](auto& r) { r.set_order_by("age"); }), "INVALID_ORDER_BY");
}

TEST_F(RpcApiTest, UpdatesWhatTheMaskNames) {
  const std::string blocker = submit(2);
  const std::string id = submit();
  v1::UpdateJobRequest request;
  request.set_id(id);
  request.set_etag(get(id).etag());
  request.mutable_spec()->mutable_resources()->set_priority(7);
  request.mutable_spec()->set_name("ignored");
  (*request.mutable_spec()->mutable_labels())["team"] = "red";
  request.mutable_update_mask()->add_paths("resources.priority");
  request.mutable_update_mask()->add_paths("labels");
  const auto update = [&](v1::Job& job) {
    Context context;
    return jobs_->UpdateJob(&context, request, &job);
  };
  v1::Job job;
  ASSERT_TRUE(update(job).ok());
  EXPECT_EQ(job.priority(), 7);
  EXPECT_EQ(job.name(), "small");
  EXPECT_EQ(job.spec().labels().at("team"), "red");
  EXPECT_EQ(reason(update(job)), "ETAG_MISMATCH");
  request.clear_etag();
  request.mutable_update_mask()->add_paths("train.seed");
  EXPECT_EQ(reason(update(job)), "INVALID_UPDATE_MASK");
  request.mutable_update_mask()->mutable_paths()->RemoveLast();
  request.mutable_spec()->mutable_resources()->set_priority(
      1'000'000);  // beyond the schema's range
  EXPECT_EQ(reason(update(job)), "INVALID_UPDATE_MASK");
  EXPECT_EQ(get(id).priority(), 7);
  v1::ListJobsRequest list;
  list.set_filter("labels.team=red AND state=QUEUED|RUNNING");
  Context context;
  v1::ListJobsResponse found;
  ASSERT_TRUE(jobs_->ListJobs(&context, list, &found).ok());
  ASSERT_EQ(found.jobs_size(), 1);
  EXPECT_EQ(found.jobs(0).id(), id);
}

TEST_F(RpcApiTest, ARepeatedUpdateIsAnsweredAfterTheJobIsGone) {
  submit(2);
  const std::string id = submit();
  v1::UpdateJobRequest request;
  request.set_id(id);
  request.set_request_id("rename");
  request.mutable_spec()->set_name("new");
  request.mutable_update_mask()->add_paths("name");
  Context contexts[3];
  v1::Job first;
  ASSERT_TRUE(jobs_->UpdateJob(&contexts[0], request, &first).ok());
  cancel(id);
  v1::DeleteJobRequest remove;
  remove.set_id(id);
  google::protobuf::Empty empty;
  ASSERT_TRUE(jobs_->DeleteJob(&contexts[1], remove, &empty).ok());
  v1::Job again;
  const grpc::Status repeated = jobs_->UpdateJob(&contexts[2], request, &again);
  ASSERT_TRUE(repeated.ok()) << repeated.error_message();
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(again, first));
}

TEST_F(RpcApiTest, DeletesEndedJobsOnly) {
  submit(2);
  const std::string id = submit();
  v1::DeleteJobRequest request;
  request.set_id(id);
  const auto remove = [&] {
    Context context;
    google::protobuf::Empty empty;
    return jobs_->DeleteJob(&context, request, &empty);
  };
  EXPECT_EQ(reason(remove()), "WRONG_STATE");
  cancel(id);
  request.set_request_id("delete-once");
  EXPECT_TRUE(remove().ok());
  EXPECT_TRUE(remove().ok());  // the repeat of an answered request
  request.set_request_id("");
  EXPECT_EQ(reason(remove()), "JOB_NOT_FOUND");
}

TEST_F(RpcApiTest, OnlyACheckpointThatIsKeptIsExported) {
  const std::string id = submit();
  const auto asked = [&](const std::string& job_id, int64_t step) {
    v1::ExportCheckpointRequest request;
    request.set_id(job_id);
    request.set_step(step);
    v1::Job job;
    Context context;
    return reason(jobs_->ExportCheckpoint(&context, request, &job));
  };
  EXPECT_EQ(asked("job-nothing", 0), "JOB_NOT_FOUND");
  EXPECT_EQ(asked(id, -1), "INVALID_STEP");
  EXPECT_EQ(asked(id, 0), "NO_SUCH_CHECKPOINT");
  EXPECT_EQ(asked(id, 7), "NO_SUCH_CHECKPOINT");
}

TEST_F(RpcApiTest, EveryCheckOfASubmitIsOneOfItsRehearsals) {
  stop();
  config_.quotas = {{"", {.slots = 0, .queued_jobs = 0, .disk = 1}}};
  start();
  v1::CreateJobRequest single = create_request();
  v1::CreateJobsRequest several;
  *several.add_requests() = single;
  for (const bool rehearsal : {true, false}) {
    single.set_validate_only(rehearsal);
    several.set_validate_only(rehearsal);
    v1::Job job;
    v1::CreateJobsResponse jobs;
    Context contexts[2];
    EXPECT_EQ(reason(jobs_->CreateJob(&contexts[0], single, &job)), "QUOTA_EXCEEDED") << rehearsal;
    EXPECT_EQ(reason(jobs_->CreateJobs(&contexts[1], several, &jobs)), "QUOTA_EXCEEDED");
  }
  v1::PlanJobRequest request;
  *request.mutable_spec() = single.spec();
  v1::PlanJobResponse planned;
  Context context;
  EXPECT_EQ(reason(jobs_->PlanJob(&context, request, &planned)), "QUOTA_EXCEEDED");
}

TEST_F(RpcApiTest, APlanIsMadeAndNothingIsStored) {
  v1::PlanJobRequest request;
  *request.mutable_spec() = small_spec(dir_.path());
  v1::PlanJobResponse planned;
  Context contexts[3];
  const grpc::Status made = jobs_->PlanJob(&contexts[0], request, &planned);
  ASSERT_TRUE(made.ok()) << made.error_message();
  EXPECT_EQ(planned.resolved_spec().train().max_steps(), 4);
  EXPECT_GT(planned.plan().memory().rank_bytes(), 0);
  EXPECT_EQ(planned.plan().work().steps(), 4);
  EXPECT_EQ(planned.plan().queue().position(), 1);
  EXPECT_EQ(planned.data().rows(), 8);
  v1::ListJobsResponse jobs;
  ASSERT_TRUE(jobs_->ListJobs(&contexts[1], {}, &jobs).ok());
  EXPECT_EQ(jobs.jobs_size(), 0);
  request.mutable_spec()->mutable_parallel()->set_ranks(-1);
  EXPECT_EQ(reason(jobs_->PlanJob(&contexts[2], request, &planned)), "INVALID_SPEC");
}

TEST_F(RpcApiTest, AJobIsPausedAndResumed) {
  const std::string id = submit();
  v1::PauseJobRequest pause;
  pause.set_id(id);
  pause.set_request_id("pause-once");
  v1::Job job;
  Context contexts[4];
  ASSERT_TRUE(jobs_->PauseJob(&contexts[0], pause, &job).ok());
  EXPECT_TRUE(job.state() == v1::PAUSED || job.state() == v1::PAUSING) << job.state();
  v1::Job again;
  ASSERT_TRUE(jobs_->PauseJob(&contexts[1], pause, &again).ok());
  EXPECT_EQ(again.SerializeAsString(), job.SerializeAsString());
  v1::ResumeJobRequest resume;
  resume.set_id(id);
  ASSERT_TRUE(jobs_->ResumeJob(&contexts[2], resume, &job).ok());
  EXPECT_TRUE(job.state() == v1::QUEUED || job.state() == v1::RECOVERING) << job.state();
  EXPECT_EQ(reason(jobs_->ResumeJob(&contexts[3], resume, &job)), "WRONG_STATE");
}

TEST_F(RpcApiTest, LogsAreTheEndOfTheOutput) {
  const std::string id = submit();
  ASSERT_TRUE(launcher_.wait_for_launch(id, 1, kPatience).has_value());
  launcher_.print(id, 1, "first line\nlast\n");
  v1::GetJobLogsRequest request;
  request.set_id(id);
  Context context;
  v1::GetJobLogsResponse logs;
  ASSERT_TRUE(jobs_->GetJobLogs(&context, request, &logs).ok());
  EXPECT_EQ(logs.text(), "first line\nlast\n");
  EXPECT_EQ(logs.attempt(), 1);
  request.set_max_bytes(5);
  Context short_context;
  ASSERT_TRUE(jobs_->GetJobLogs(&short_context, request, &logs).ok());
  EXPECT_EQ(logs.text(), "last\n");
  EXPECT_TRUE(logs.truncated());
  request.set_attempt(5);
  Context none_context;
  EXPECT_EQ(jobs_->GetJobLogs(&none_context, request, &logs).error_code(),
            grpc::StatusCode::OUT_OF_RANGE);
  request.set_attempt(0);
  request.set_max_bytes(-1);
  Context negative_context;
  EXPECT_EQ(reason(jobs_->GetJobLogs(&negative_context, request, &logs)), "INVALID_MAX_BYTES");
}

TEST_F(RpcApiTest, ServerInfoAndMetrics) {
  submit(2);
  submit();
  Context context;
  v1::ServerInfo info;
  ASSERT_TRUE(jobs_->GetServerInfo(&context, {}, &info).ok());
  EXPECT_EQ(info.api_version(), "emoe.v1");
  EXPECT_EQ(info.slots_total(), 2);
  EXPECT_EQ(info.address(), server_->address());
  EXPECT_EQ(
      registry_.observations("emoe_rpc_seconds", {{"method", "CreateJob"}, {"code", "OK"}}).size(),
      2U);
}

TEST_F(RpcApiTest, UnknownJobsAreNotFoundEverywhere) {
  Context contexts[6];
  v1::Job job;
  v1::GetJobRequest get_request;
  get_request.set_id("job-none");
  EXPECT_EQ(reason(jobs_->GetJob(&contexts[0], get_request, &job)), "JOB_NOT_FOUND");
  v1::CancelJobRequest cancel;
  cancel.set_id("job-none");
  EXPECT_EQ(reason(jobs_->CancelJob(&contexts[1], cancel, &job)), "JOB_NOT_FOUND");
  v1::ListMetricsRequest metrics;
  metrics.set_id("job-none");
  v1::ListMetricsResponse steps;
  EXPECT_EQ(reason(jobs_->ListMetrics(&contexts[2], metrics, &steps)), "JOB_NOT_FOUND");
  v1::ListCheckpointsRequest list;
  list.set_id("job-none");
  v1::ListCheckpointsResponse checkpoints;
  EXPECT_EQ(reason(jobs_->ListCheckpoints(&contexts[3], list, &checkpoints)), "JOB_NOT_FOUND");
}

}  // namespace
}  // namespace emoe::server
