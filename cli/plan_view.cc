#include "cli/plan_view.h"

#include <cmath>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_join.h>

#include "cli/format.h"
#include "cli/table.h"

namespace emoe::cli {
namespace {

// "3.4 GiB of a host with 123.5 GiB"
std::string host_text(const v1::MemoryPlan& memory) {
  if (memory.host_bytes() == 0) return "";
  const std::string text = human_bytes(memory.host_bytes());
  if (memory.host_available() == 0) return text + "; what a host has is not known";
  return absl::StrCat(text, " of a host with ", human_bytes(memory.host_available()),
                      memory.host_too_small() ? ": DOES NOT FIT" : "");
}

// "2.1 GiB a rank, 2 ranks on a host with 23.5 GiB"
std::string memory_text(const v1::MemoryPlan& memory) {
  std::string text = absl::StrCat(human_bytes(memory.rank_bytes()), " a rank");
  if (memory.ranks() > 1) absl::StrAppend(&text, ", ", memory.ranks(), " ranks");
  const std::string place = memory.place() == "host"  ? "a host"
                            : memory.device().empty() ? "a GPU"
                                                      : "a " + printable(memory.device());
  if (memory.available() == 0) return absl::StrCat(text, "; what ", place, " has is not known");
  return absl::StrCat(text, " on ", place, " with ", human_bytes(memory.available()),
                      memory.does_not_fit() ? ": DOES NOT FIT" : "");
}

std::string micro_batch_text(const v1::MemoryPlan& memory) {
  std::string text = absl::StrCat(memory.micro_batch_tokens(), " tokens at most");
  if (memory.available() == 0) return text;
  if (memory.fitting_tokens() == 0) return text + "; none fits";
  return absl::StrCat(text, "; train.micro_batch_tokens up to ", memory.fitting_tokens(),
                      memory.does_not_fit() ? " would fit" : " fits");
}

std::string work_text(const v1::WorkPlan& work) {
  const std::string rows =
      work.steps() > 0 ? absl::StrCat(" rows an epoch, ", work.steps(), " steps, ") : " rows, ";
  const char* bound = work.upper_bound() ? "at most " : "";
  return absl::StrCat(work.exact() ? "" : "about ", work.rows(), rows, bound,
                      human_count(static_cast<double>(work.tokens())), " tokens, ", bound,
                      human_count(static_cast<double>(work.target_tokens())), " to learn, ",
                      absl::StrFormat("%.3g", work.flops()), " FLOPs");
}

std::string duration_text(const v1::Plan& plan) {
  if (!plan.has_time()) return "unknown: no such job has finished on this kind of machine yet";
  const v1::TimePlan& time = plan.time();
  // A single run is met exactly by what was learned from it: that says nothing.
  const bool knows_error = time.learned_from() > 1;
  return absl::StrCat(
      "about ", human_seconds(time.seconds()), "; learned from ", time.learned_from(),
      knows_error ? " runs" : " run", " on ", printable(time.machine()),
      knows_error ? absl::StrFormat(", on which it is off by %.0f %%", 100 * time.relative_error())
                  : "; how far it is off is not known yet");
}

std::string short_time(const v1::Plan& plan) {
  if (!plan.has_time()) return "time unknown";
  const v1::TimePlan& time = plan.time();
  return absl::StrCat("about ", human_seconds(time.seconds()),
                      time.learned_from() > 1
                          ? absl::StrFormat(" (± %.0f %%)", 100 * time.relative_error())
                          : " (by one run)");
}

std::string disk_text(const v1::DiskPlan& disk) {
  std::vector<std::string> parts;
  if (disk.checkpoints() > 0) {
    parts.push_back(
        absl::StrCat(disk.checkpoints(), " checkpoints of ", human_bytes(disk.checkpoint_bytes())));
  }
  if (disk.export_bytes() > 0) {
    parts.push_back(absl::StrCat("export ", human_bytes(disk.export_bytes())));
  }
  if (disk.cache_bytes() > 0) {
    parts.push_back(absl::StrCat("cache ", human_bytes(disk.cache_bytes())));
  }
  if (parts.empty()) return "";
  std::string text =
      absl::StrCat(human_bytes(disk.total_bytes()), ": ", absl::StrJoin(parts, ", "));
  if (disk.free_bytes() == 0) return text;
  return absl::StrCat(text, "; ", human_bytes(disk.free_bytes()), " free",
                      disk.too_small() ? ": TOO SMALL" : "");
}

std::string queue_text(const v1::QueuePlan& queue, WallTime now) {
  std::string text = absl::StrCat("position ", queue.position(), ", ", queue.jobs_ahead(),
                                  queue.jobs_ahead() == 1 ? " job" : " jobs", " ahead");
  if (!queue.has_start_time()) return text + "; when it starts is not known";
  const double wait = seconds_of(queue.start_time()) -
                      std::chrono::duration<double>(now.time_since_epoch()).count();
  if (wait < 1) return text + "; starts now";
  return absl::StrCat(text, "; starts in about ", human_seconds(wait));
}

std::string component_table(const v1::MemoryPlan& memory, int width) {
  Table table({{"MEMORY OF A RANK"}, {"BYTES", true}});
  const std::pair<const char*, int64_t> rows[] = {{"program", memory.program()},
                                                  {"base weights", memory.base()},
                                                  {"trained weights", memory.trained()},
                                                  {"gradients", memory.gradients()},
                                                  {"optimiser", memory.optimizer()},
                                                  {"activations", memory.activations()},
                                                  {"workspace", memory.workspace()},
                                                  {"gathered layers", memory.gathered()},
                                                  {"checkpoint copy", memory.checkpoint()},
                                                  {"kept by the allocator", memory.kept()}};
  for (const auto& [name, bytes] : rows) {
    if (bytes > 0) table.add({name, human_bytes(bytes)});
  }
  if (memory.exporting() > 0) {
    table.add({"(export and its check)", human_bytes(memory.program() + memory.exporting())});
  }
  return table.render(width);
}

std::string off_text(double planned, double actual) {
  if (planned <= 0 || actual <= 0) return "-";
  return absl::StrFormat("%+.1f %%", 100 * (planned / actual - 1));
}

}  // namespace

std::string plan_text(const v1::Plan& plan, WallTime now, int width) {
  KeyValues values;
  if (plan.has_memory()) {
    values.add("memory", memory_text(plan.memory()));
    values.add("beside it", host_text(plan.memory()));
    if (plan.has_work()) values.add("micro-batch", micro_batch_text(plan.memory()));
    for (const v1::PlanChange& change : plan.memory().fits_with()) {
      values.add("fits with",
                 absl::StrCat(change.change(), " (", human_bytes(change.rank_bytes()), ")"));
    }
    values.add("fits with", plan.memory().no_remedy());
  }
  if (plan.has_work()) values.add("work", work_text(plan.work()));
  if (plan.has_memory()) values.add("time", duration_text(plan));
  values.add("disk", disk_text(plan.disk()));
  if (plan.has_queue()) values.add("queue", queue_text(plan.queue(), now));
  std::string text = values.render(width);
  if (plan.has_memory()) absl::StrAppend(&text, "\n", component_table(plan.memory(), width));
  return text;
}

std::string short_plan(const v1::Plan& plan) {
  std::vector<std::string> parts;
  if (plan.has_memory()) {
    parts.push_back(absl::StrCat(human_bytes(plan.memory().rank_bytes()), " a rank",
                                 plan.memory().available() > 0
                                     ? absl::StrCat(" of ", human_bytes(plan.memory().available()))
                                     : ""));
  }
  if (plan.has_work()) {
    parts.push_back(
        plan.work().steps() > 0
            ? absl::StrCat(plan.work().steps(), " steps")
            : absl::StrCat(human_count(static_cast<double>(plan.work().tokens())), " tokens"));
  }
  if (plan.has_memory()) {
    parts.push_back(short_time(plan));
  }
  if (plan.disk().total_bytes() > 0) {
    parts.push_back(absl::StrCat(human_bytes(plan.disk().total_bytes()), " on disk"));
  }
  return absl::StrJoin(parts, "; ");
}

std::string measured_table(const v1::Job& job, int width) {
  const v1::Measured& measured = job.measured();
  if (measured.seconds() <= 0) return "";
  const v1::Plan& plan = job.plan();
  Table table({{"PLAN AND MEASURED"}, {"PLAN", true}, {"MEASURED", true}, {"OFF", true}});
  const auto bytes = [&](const char* name, int64_t planned, int64_t actual) {
    if (actual <= 0) return;
    table.add({name, planned > 0 ? human_bytes(planned) : "-", human_bytes(actual),
               off_text(static_cast<double>(planned), static_cast<double>(actual))});
  };
  const v1::MemoryPlan& memory = plan.memory();
  const bool on_host = memory.place() == "host";
  const bool on_device = measured.device_bytes() > 0;
  // What CUDA has of its own on the device is planned, but no rank can tell it from that of others.
  bytes("device memory of a rank", on_host ? 0 : memory.rank_bytes() - memory.program(),
        measured.device_bytes());
  bytes(on_device ? "host memory of a rank" : "memory of a rank", on_host ? memory.rank_bytes() : 0,
        measured.rank_bytes());
  const double planned_seconds = plan.time().seconds();
  table.add({"time", plan.has_time() ? human_seconds(planned_seconds) : "-",
             human_seconds(measured.seconds()), off_text(planned_seconds, measured.seconds())});
  bytes("a checkpoint", plan.disk().checkpoint_bytes(), measured.checkpoint_bytes());
  bytes("export", plan.disk().export_bytes(), measured.export_bytes());
  bytes("cache", plan.disk().cache_bytes(), measured.cache_bytes());
  return table.render(width);
}

}  // namespace emoe::cli
