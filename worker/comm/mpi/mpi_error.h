#pragma once

#include <string>

#include <mpi.h>

namespace emoe::worker {

// Throws CommunicationError "<operation>: <MPI's text>" unless code is MPI_SUCCESS.
void check_mpi(int code, const std::string& operation);

}  // namespace emoe::worker
