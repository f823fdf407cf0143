// What a job's run left in the store, over a real socket in pages.
#include <fstream>

#include "tests/server/rpc_support.h"

namespace emoe::server {
namespace {

class RpcListsTest : public RpcTest {
 protected:
  // Stores an event that `fill` has given its content.
  template <typename Fill>
  void add_event(const std::string& id, const Fill& fill) {
    Change change;
    v1::Event& event = change.events.emplace_back();
    event.set_job_id(id);
    event.set_sequence(++sequence_);
    fill(event);
    ASSERT_TRUE(store_->commit(change).ok());
  }
  void add_steps(const std::string& id, int count) {
    for (int step = 0; step < count; ++step) {
      add_event(id, [&](v1::Event& event) { event.mutable_step()->set_step(step); });
    }
  }
  void add_evals(const std::string& id, const std::vector<int64_t>& steps) {
    for (const int64_t step : steps) {
      add_event(id, [&](v1::Event& event) { event.mutable_eval()->set_step(step); });
    }
  }
  std::filesystem::path folder(int64_t step) { return dir_ / ("step_" + std::to_string(step)); }
  void add_checkpoints(const std::string& id, const std::vector<int64_t>& steps) {
    for (const int64_t step : steps) {
      std::filesystem::create_directory(folder(step));
      std::ofstream(folder(step) / "manifest.json") << "{}";
      add_event(id, [&](v1::Event& event) {
        event.mutable_checkpoint()->set_step(step);
        event.mutable_checkpoint()->set_path(folder(step).string());
      });
    }
  }
  template <typename Request, typename Response>
  grpc::Status list(grpc::Status (v1::FineTuning::Stub::*method)(Context*, const Request&,
                                                                 Response*),
                    const Request& request, Response& response) {
    Context context;
    response.Clear();
    return (*jobs_.*method)(&context, request, &response);
  }
  int64_t sequence_ = 1000;
};

TEST_F(RpcListsTest, EveryEvaluationIsOnThePageOfItsSteps) {
  const std::string id = submit();
  add_steps(id, 7);
  add_evals(id, {0, 3, 4, 7});
  v1::ListMetricsRequest request;
  request.set_id(id);
  request.set_page_size(3);
  std::vector<std::vector<int64_t>> steps;
  std::vector<std::vector<int64_t>> evals;
  v1::ListMetricsResponse page;
  do {
    ASSERT_TRUE(list(&v1::FineTuning::Stub::ListMetrics, request, page).ok());
    steps.emplace_back();
    evals.emplace_back();
    for (const auto& step : page.steps()) steps.back().push_back(step.step());
    for (const auto& eval : page.evals()) evals.back().push_back(eval.step());
    request.set_page_token(page.next_page_token());
  } while (!request.page_token().empty());
  using Pages = std::vector<std::vector<int64_t>>;
  EXPECT_EQ(steps, (Pages{{0, 1, 2}, {3, 4, 5}, {6}}));
  EXPECT_EQ(evals, (Pages{{0}, {3, 4}, {7}}));

  request.set_from_step(4);
  request.set_page_size(0);
  ASSERT_TRUE(list(&v1::FineTuning::Stub::ListMetrics, request, page).ok());
  EXPECT_EQ(page.steps_size(), 3);
  EXPECT_EQ(page.evals_size(), 2);
}

TEST_F(RpcListsTest, CheckpointsComeInPagesNewestFirst) {
  const std::string id = submit();
  add_checkpoints(id, {10, 20, 30, 40, 50, 60});
  std::filesystem::remove_all(folder(30));  // replaced by newer ones
  v1::ListCheckpointsRequest request;
  request.set_id(id);
  request.set_page_size(2);
  std::vector<std::vector<int64_t>> pages;
  v1::ListCheckpointsResponse page;
  do {
    ASSERT_TRUE(list(&v1::FineTuning::Stub::ListCheckpoints, request, page).ok());
    pages.emplace_back();
    for (const auto& checkpoint : page.checkpoints()) pages.back().push_back(checkpoint.step());
    request.set_page_token(page.next_page_token());
    if (pages.size() == 1) add_checkpoints(id, {70});  // does not move the pages
  } while (!request.page_token().empty());
  EXPECT_EQ(pages, (std::vector<std::vector<int64_t>>{{60, 50}, {40, 20}, {10}}));

  request.set_page_size(-1);
  request.set_page_token("x");
  const grpc::Status both = list(&v1::FineTuning::Stub::ListCheckpoints, request, page);
  EXPECT_EQ(reason(both), "INVALID_PAGE_SIZE");
  EXPECT_EQ(detail<google::rpc::BadRequest>(both).field_violations_size(), 2);
  v1::ListMetricsRequest metrics;
  metrics.set_id(id);
  v1::ListMetricsResponse none;
  request.set_page_size(1);
  request.clear_page_token();
  ASSERT_TRUE(list(&v1::FineTuning::Stub::ListCheckpoints, request, page).ok());
  metrics.set_page_token(page.next_page_token());  // of another list
  EXPECT_EQ(reason(list(&v1::FineTuning::Stub::ListMetrics, metrics, none)), "INVALID_PAGE_TOKEN");
}

}  // namespace
}  // namespace emoe::server
