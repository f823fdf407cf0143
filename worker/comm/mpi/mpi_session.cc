#include "worker/comm/mpi/mpi_session.h"

#include <cstdlib>
#include <exception>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <mpi.h>

#include "base/log.h"
#include "worker/comm/collective_counters.h"

namespace emoe::worker {
namespace {

std::optional<int> first_number_in_environment(std::initializer_list<const char*> names) {
  for (const char* name : names) {
    const char* text = std::getenv(name);
    int value = 0;
    if (text != nullptr && absl::SimpleAtoi(text, &value)) return value;
  }
  return std::nullopt;
}

}  // namespace

void check_mpi(int code, const std::string& operation) {
  if (code == MPI_SUCCESS) return;
  char text[MPI_MAX_ERROR_STRING] = {};
  int length = 0;
  MPI_Error_string(code, text, &length);
  throw CommunicationError(absl::StrCat(operation, ": ", std::string(text, length)));
}

MpiSession::MpiSession() : exceptions_at_start_(std::uncaught_exceptions()) {
  // A singleton otherwise starts a daemon (orted) that outlives a killed worker.
  if (!launched_world_size()) setenv("OMPI_MCA_ess_singleton_isolated", "1", /*overwrite=*/0);
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

int MpiSession::rank() const {
  int rank = 0;
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  return rank;
}

int MpiSession::world_size() const {
  int size = 1;
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  return size;
}

std::optional<int> launched_world_size() {
  return first_number_in_environment({"OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "SLURM_NTASKS"});
}

std::optional<int> launched_rank() {
  return first_number_in_environment({"OMPI_COMM_WORLD_RANK", "PMI_RANK", "SLURM_PROCID"});
}

std::optional<int> launched_local_rank() {
  return first_number_in_environment(
      {"OMPI_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"});
}

std::optional<int> launched_local_size() {
  return first_number_in_environment(
      {"OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_NTASKS_PER_NODE"});
}

}  // namespace emoe::worker
