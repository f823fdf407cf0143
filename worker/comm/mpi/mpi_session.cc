#include "worker/comm/mpi/mpi_session.h"

#include <algorithm>
#include <cstdlib>
#include <exception>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <mpi.h>

#include "base/log.h"
#include "worker/comm/collective_counters.h"

namespace emoe::worker {
namespace {

std::optional<int> number_in(const char* name) {
  const char* text = std::getenv(name);
  int value = 0;
  if (text == nullptr || !absl::SimpleAtoi(text, &value)) return std::nullopt;
  return value;
}

// The variables by which launchers tell a process its place. All three are there, or it was not
// started by that one.
struct Launcher {
  const char* size;
  const char* rank;
  const char* mark;
};
constexpr Launcher kLaunchers[] = {
    {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_RANK"},
    {"PMI_SIZE", "PMI_RANK", "PMI_RANK"},
    // SLURM_NTASKS may be the allocation's, and a batch script has a SLURM_PROCID: only what srun
    // starts is in a numbered step.
    {"SLURM_STEP_NUM_TASKS", "SLURM_PROCID", "SLURM_STEP_ID"},
    {"SLURM_NTASKS", "SLURM_PROCID", "SLURM_STEP_ID"},
};

// Of the first of these environment variables that has one.
std::optional<int> first_number(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const auto number = number_in(name)) return number;
  }
  return std::nullopt;
}

}  // namespace

std::string mpi_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  check_mpi(MPI_Get_library_version(text, &length), "MPI_Get_library_version");
  const std::string whole(text, static_cast<size_t>(length));
  return whole.substr(0, whole.find(','));
}

void check_mpi(int code, const std::string& operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommunicationError(absl::StrCat(operation, ": ", std::string(text, length)));
}

MpiSession::MpiSession() : exceptions_at_start_(std::uncaught_exceptions()) {
  // A singleton otherwise starts a daemon (orted) that outlives a killed worker.
  if (!launched_rank()) setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
  // A rank inside a collective polls, and yields its core to whoever else is there.
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", /*overwrite=*/0);
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  if (provided < MPI_THREAD_SERIALIZED) {
    throw CommunicationError("this MPI library does not offer MPI_THREAD_SERIALIZED");
  }
  check_mpi(MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
}

MpiSession::~MpiSession() {
  if (std::uncaught_exceptions() > exceptions_at_start_) return;
  try {
    check_mpi(MPI_Finalize(), "MPI_Finalize");
  } catch (const CommunicationError& error) {
    log_warning("%s", error.what());
  }
}

bool srun_without_pmix() {
  const auto has = [](const char* name) { return std::getenv(name) != nullptr; };
  const bool by_srun = has("SLURM_STEP_ID") && has("SLURM_PROCID") && !has("OMPI_COMM_WORLD_SIZE");
  return by_srun && !has("PMIX_NAMESPACE");
}

std::optional<LaunchedRank> launched_rank() {
  const auto local_rank =
      first_number({"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"});
  const auto local_size =
      first_number({"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"});
  // Slurm shows a task that has GPUs of its own no others.
  const bool own_gpus =
      std::getenv("SLURM_GPUS_PER_TASK") != nullptr && std::getenv("SLURM_STEP_GPUS") != nullptr;
  for (const Launcher& launcher : kLaunchers) {
    const auto world_size = number_in(launcher.size);
    const auto rank = number_in(launcher.rank);
    if (!world_size || !rank || std::getenv(launcher.mark) == nullptr) continue;
    return LaunchedRank{.rank = *rank,
                        .world_size = *world_size,
                        .local_rank = local_rank.value_or(0),
                        .gpu = own_gpus ? 0 : local_rank.value_or(0),
                        .local_size = std::min(local_size.value_or(*world_size), *world_size),
                        .said_by = launcher.size};
  }
  return std::nullopt;
}

}  // namespace emoe::worker
