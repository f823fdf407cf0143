// CreateJob: no thread waits while a job is written to the disk. What admission knows already is submitted at once, in
// the thread of the completion queue; where files have to be read it goes on in another one.
#include <utility>

#include "server/job/job_warnings.h"
#include "server/rpc/fine_tuning_handler.h"
#include "server/rpc/grpc_status.h"
#include "server/rpc/requests.h"

namespace emoe::server {

struct FineTuningHandler::Creating {
  Answer answer;
  Call call{.method = "CreateJob"};
  std::chrono::steady_clock::time_point begin = std::chrono::steady_clock::now();
  v1::CreateJobRequest request = {};
  RequestKey key = {};
  std::string job = {};  // the answer's bytes
};

void FineTuningHandler::create_job(const grpc::ServerContextBase& context,
                                   grpc::ByteBuffer& request, Answer answer) {
  const auto creating = std::make_shared<Creating>(Creating{.answer = std::move(answer)});
  const grpc::Status parsed =
      grpc::SerializationTraits<v1::CreateJobRequest>::Deserialize(&request, &creating->request);
  if (!parsed.ok()) return creating->answer(parsed, "");
  std::optional<Submission> known;
  const Status status = without_exceptions([&]() -> Status {
    EMOE_RETURN_IF_ERROR(let_in(context, creating->call));
    known = recall(*creating);
    return ok_status();
  });
  if (!status.ok()) return end(*creating, status);
  if (known) return submit(creating, *std::move(known));
  const Status begun = without_exceptions([&] {
    threads_.run([this, creating] {
      std::optional<Submission> submission;
      const Status admitted = without_exceptions([&] { return admit_new(*creating, submission); });
      if (!admitted.ok() || !submission) return end(*creating, admitted);
      submit(creating, *std::move(submission));
    });
    return ok_status();
  });
  if (!begun.ok()) end(*creating, begun);
}

Submission submission_of(v1::JobSpec spec, Recalled recalled, Submitter by) {
  return {.spec = std::move(spec),
          .resolved = std::move(recalled.resolved),
          .warnings = std::move(recalled.warnings),
          .data = std::move(recalled.found.data),
          .plan = std::move(recalled.found.plan),
          .by = std::move(by),
          .common = std::move(recalled.common)};
}

// A job with which nothing is wrong, without a look at files and without waiting; of all others nothing. A
// repeated request is found out by the commit.
std::optional<Submission> FineTuningHandler::recall(Creating& creating) {
  const v1::CreateJobRequest& request = creating.request;
  if (request.validate_only() ||
      quota_of(controller_.config().quotas, creating.call.who.project).disk > 0) {
    return std::nullopt;
  }
  Diagnostics problems;
  creating.key = key_of(creating.call, request, problems);
  if (!problems.empty()) return std::nullopt;
  auto recalled = admission_.recall(request.spec(), roots_of(creating.call));
  if (!recalled) return std::nullopt;
  return submission_of(std::move(*creating.request.mutable_spec()), *std::move(recalled),
                       submitter_of(creating.call));
}

// What is to be stored; nothing where the answer is known: that to an earlier call, or what the job would be.
Status FineTuningHandler::admit_new(Creating& creating, std::optional<Submission>& submission) {
  const v1::CreateJobRequest& request = creating.request;
  Call& call = creating.call;
  Diagnostics problems;
  creating.key = key_of(call, request, problems);
  if (problems.empty() && !request.validate_only()) {
    EMOE_ASSIGN_OR_RETURN(const auto first, controller_.answered(creating.key));
    if (first) {
      call.job_id = first->id();
      creating.job = first->SerializeAsString();
      return ok_status();
    }
  }
  Findings found;
  v1::JobSpec resolved = admission_.admit(request.spec(), roots_of(call), problems, &found);
  EMOE_RETURN_IF_ERROR(bad_request(problems, "INVALID_SPEC"));
  EMOE_RETURN_IF_ERROR(check_fits(found.plan));
  EMOE_RETURN_IF_ERROR(check_disk_quota(call, found.plan.disk().total_bytes()));
  if (!request.validate_only()) {
    submission = Submission{.spec = request.spec(),
                            .resolved = std::move(resolved),
                            .warnings = problems.warnings(),
                            .data = std::move(found.data),
                            .plan = std::move(found.plan),
                            .by = submitter_of(call)};
    return ok_status();
  }
  EMOE_RETURN_IF_ERROR(
      controller_.check_capacity({.spec = {}, .resolved = resolved, .by = submitter_of(call)}));
  v1::Job job;
  job.set_name(resolved.name());
  *job.mutable_spec() = request.spec();
  *job.mutable_resolved_spec() = resolved;
  job.set_state(v1::VALIDATING);
  job.set_priority(resolved.resources().priority());
  for (const Warning& warning : problems.warnings()) *job.add_warnings() = to_message(warning);
  *job.mutable_data() = found.data;
  *job.mutable_plan() = found.plan;
  *job.mutable_plan()->mutable_queue() = controller_.queue_plan(resolved);
  creating.job = job.SerializeAsString();
  return ok_status();
}

void FineTuningHandler::submit(const std::shared_ptr<Creating>& creating, Submission submission) {
  controller_.create(std::move(submission), creating->key,
                     [this, creating](Result<Controller::Created> created) {
                       if (created.ok()) {
                         creating->call.job_id = std::move(created->id);
                         creating->job = std::move(created->bytes);
                       }
                       end(*creating, created.status());
                     });
}

void FineTuningHandler::end(Creating& creating, Status status) {
  grpc::Status final;
  const Status concluded = without_exceptions([&] {
    final = conclude(creating.call, std::move(status), creating.begin);
    return ok_status();
  });
  if (!concluded.ok()) final = to_grpc(concluded);
  creating.answer(final, creating.job);
}

}  // namespace emoe::server
