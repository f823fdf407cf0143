#include "cli/plan_view.h"

#include <gtest/gtest.h>

namespace emoe::cli {
namespace {

const WallTime kNow{std::chrono::seconds(1'800'000'000)};

v1::Plan plan() {
  v1::Plan plan;
  v1::MemoryPlan& memory = *plan.mutable_memory();
  memory.set_place("host");
  memory.set_rank_bytes(3LL << 30);
  memory.set_base(2LL << 30);
  memory.set_ranks(2);
  memory.set_available(4LL << 30);
  memory.set_micro_batch_tokens(4096);
  memory.set_fitting_tokens(1024);
  memory.set_does_not_fit(true);
  v1::PlanChange& change = *memory.add_fits_with();
  change.set_change("--set train.micro_batch_tokens=1024");
  change.set_rank_bytes(2LL << 30);
  plan.mutable_work()->set_rows(100);
  plan.mutable_work()->set_steps(7);
  plan.mutable_work()->set_flops(1.5e12);
  plan.mutable_disk()->set_export_bytes(1 << 20);
  plan.mutable_disk()->set_total_bytes(1 << 20);
  plan.mutable_disk()->set_free_bytes(1 << 19);
  plan.mutable_disk()->set_too_small(true);
  plan.mutable_queue()->set_position(2);
  plan.mutable_queue()->set_jobs_ahead(3);
  return plan;
}

TEST(PlanView, TellsWhatDoesNotFitAndWhatWould) {
  const std::string text = plan_text(plan(), kNow, 0);
  for (const char* part :
       {"3.0 GiB a rank, 2 ranks on a host with 4.0 GiB: DOES NOT FIT", "up to 1024 would fit",
        "--set train.micro_batch_tokens=1024 (2.0 GiB)", "about 100 rows an epoch, 7 steps",
        "1.5e+12 FLOPs", "unknown: no such job has finished", "512.0 KiB free: TOO SMALL",
        "position 2, 3 jobs ahead; when it starts is not known", "base weights"}) {
    EXPECT_NE(text.find(part), std::string::npos) << part << "\n" << text;
  }
  EXPECT_EQ(text.find("optimiser"), std::string::npos) << "what takes nothing has no line";
}

TEST(PlanView, TellsWhatIsABoundAndThatNothingHelps) {
  v1::Plan large = plan();
  large.mutable_work()->set_upper_bound(true);
  large.mutable_memory()->clear_fits_with();
  large.mutable_memory()->set_no_remedy("it fits with none of what was tried: rows of 64 tokens");
  std::string text = plan_text(large, kNow, 0);
  EXPECT_NE(text.find("about 100 rows an epoch, 7 steps, at most "), std::string::npos) << text;
  EXPECT_NE(text.find("it fits with none of what was tried"), std::string::npos) << text;
  large.mutable_memory()->set_does_not_fit(false);
  text = plan_text(large, kNow, 0);
  EXPECT_EQ(text.find("DOES NOT FIT"), std::string::npos) << "the plan says it, not the view";
  EXPECT_NE(text.find("train.micro_batch_tokens up to 1024 fits"), std::string::npos) << text;
}

TEST(PlanView, OneRunTellsNoError) {
  v1::Plan known = plan();
  known.mutable_time()->set_seconds(190);
  known.mutable_time()->set_learned_from(1);
  known.mutable_time()->set_machine("X");
  EXPECT_NE(
      plan_text(known, kNow, 0).find("learned from 1 run on X; how far it is off is not known"),
      std::string::npos);
  EXPECT_NE(short_plan(known).find("about 3m10s (by one run)"), std::string::npos);
}

TEST(PlanView, TellsTimesWithTheirError) {
  v1::Plan known = plan();
  known.mutable_time()->set_seconds(190);
  known.mutable_time()->set_relative_error(0.08);
  known.mutable_time()->set_learned_from(4);
  known.mutable_time()->set_machine("X, 2 threads, float32");
  known.mutable_queue()->mutable_start_time()->set_seconds(1'800'000'060);
  const std::string text = plan_text(known, kNow, 0);
  EXPECT_NE(text.find("about 3m10s; learned from 4 runs on X, 2 threads, float32, on which it is "
                      "off by 8 %"),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("starts in about 1m00s"), std::string::npos) << text;
  EXPECT_EQ(short_plan(known),
            "3.0 GiB a rank of 4.0 GiB; 7 steps; about 3m10s (± 8 %); 1.0 MiB on disk");
  EXPECT_EQ(short_plan({}), "");
}

TEST(PlanView, PutsWhatWasMeasuredBesideIt) {
  v1::Job job;
  *job.mutable_plan() = plan();
  EXPECT_EQ(measured_table(job, 0), "") << "nothing has ended";
  job.mutable_measured()->set_seconds(100);
  job.mutable_measured()->set_rank_bytes(4LL << 30);
  const std::string table = measured_table(job, 0);
  EXPECT_NE(table.find("memory of a rank"), std::string::npos);
  EXPECT_NE(table.find("-25.0 %"), std::string::npos) << table;
  EXPECT_NE(table.find("1m40s"), std::string::npos) << table;
  EXPECT_EQ(table.find("cache"), std::string::npos) << "not measured";
  EXPECT_EQ(table.find("device"), std::string::npos) << "it ran on CPUs";
}

TEST(PlanView, TellsWhatAGpusHostNeeds) {
  v1::Plan on_gpu = plan();
  EXPECT_EQ(plan_text(on_gpu, kNow, 0).find("beside it"), std::string::npos);
  on_gpu.mutable_memory()->set_host_bytes(3LL << 30);
  on_gpu.mutable_memory()->set_host_available(2LL << 30);
  on_gpu.mutable_memory()->set_host_too_small(true);
  const std::string text = plan_text(on_gpu, kNow, 0);
  EXPECT_NE(text.find("3.0 GiB of a host with 2.0 GiB: DOES NOT FIT"), std::string::npos) << text;
}

TEST(PlanView, OnAGpuItsMemoryAndThatOfTheHost) {
  v1::Job job;
  *job.mutable_plan() = plan();
  job.mutable_plan()->mutable_memory()->set_place("device");
  job.mutable_plan()->mutable_memory()->set_program(1LL << 30);
  job.mutable_measured()->set_seconds(100);
  job.mutable_measured()->set_rank_bytes(5LL << 30);
  job.mutable_measured()->set_device_bytes(4LL << 30);
  const std::string table = measured_table(job, 0);
  const auto line_of = [&](const std::string& name) {
    const size_t at = table.find(name);
    return at == std::string::npos ? "" : table.substr(at, table.find('\n', at) - at);
  };
  const std::string device = line_of("device memory of a rank");
  EXPECT_NE(device.find("2.0 GiB"), std::string::npos) << "without what CUDA takes\n" << table;
  EXPECT_NE(device.find("-50.0 %"), std::string::npos) << table;
  EXPECT_NE(line_of("host memory of a rank").find("5.0 GiB"), std::string::npos) << table;
}

}  // namespace
}  // namespace emoe::cli
