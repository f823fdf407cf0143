#include "worker/run/job_error.h"

#include <cerrno>
#include <filesystem>
#include <new>

#include <gtest/gtest.h>

#include "worker/comm/collective_counters.h"
#include "worker/errors.h"

namespace emoe::worker {
namespace {

TEST(ExitCode, OfAFileThatIsRead) {
  struct Case {
    int error_number;
    ExitCode code;
  };
  for (const auto& [number, code] : std::vector<Case>{{ENOENT, ExitCode::configuration},
                                                      {EACCES, ExitCode::configuration},
                                                      {EPERM, ExitCode::configuration},
                                                      {EIO, ExitCode::io},
                                                      {EMFILE, ExitCode::io},
                                                      {ENFILE, ExitCode::io},
                                                      {ENOSPC, ExitCode::io},
                                                      {ESTALE, ExitCode::io},
                                                      {ETIMEDOUT, ExitCode::io},
                                                      {ENOLCK, ExitCode::io},
                                                      {ENOMEM, ExitCode::out_of_memory}}) {
    const Status status = errno_status(number, "cannot open x");
    EXPECT_EQ(input_error_code(status), code) << status;
  }
  EXPECT_EQ(input_error_code(absl::InvalidArgumentError("row 3")), ExitCode::data);
  EXPECT_EQ(input_error_code(absl::DataLossError("torn")), ExitCode::data);
  EXPECT_EQ(input_error_code(absl::OutOfRangeError("id 99")), ExitCode::data);
  EXPECT_EQ(input_error_code(absl::UnimplementedError("format")), ExitCode::configuration);
  EXPECT_EQ(input_error_code(absl::InternalError("no module")), ExitCode::internal);
}

TEST(ExitCode, OfAFileThatIsWritten) {
  for (const int number : {ENOSPC, EIO, EDQUOT, EFBIG, EROFS, EACCES, ENOENT}) {
    const Status status = errno_status(number, "cannot write x");
    EXPECT_EQ(output_error_code(status), ExitCode::io) << status;
  }
  EXPECT_EQ(output_error_code(errno_status(ENOMEM, "x")), ExitCode::out_of_memory);
  EXPECT_EQ(output_error_code(absl::InvalidArgumentError("x")), ExitCode::configuration);
}

TEST(ExitCode, OfAnExport) {
  EXPECT_EQ(export_error_code(absl::DataLossError("another bit")), ExitCode::internal);
  EXPECT_EQ(export_error_code(absl::OutOfRangeError("not finite")), ExitCode::non_finite);
  EXPECT_EQ(export_error_code(absl::AbortedError("the base changed")), ExitCode::data);
  EXPECT_EQ(export_error_code(absl::FailedPreconditionError("erased")), ExitCode::configuration);
  EXPECT_EQ(export_error_code(errno_status(ENOSPC, "x")), ExitCode::io);
}

TEST(ExitCode, OfWhatIsThrown) {
  EXPECT_EQ(exit_code_of(JobError(ExitCode::data, "x")), ExitCode::data);
  EXPECT_EQ(exit_code_of(CommunicationError("x")), ExitCode::peer_lost);
  EXPECT_EQ(exit_code_of(NonFiniteError(1, 0, "loss")), ExitCode::non_finite);
  EXPECT_EQ(exit_code_of(CheckpointError("x")), ExitCode::io);
  EXPECT_EQ(exit_code_of(ResumeError("x")), ExitCode::configuration);
  EXPECT_EQ(exit_code_of(std::bad_alloc()), ExitCode::out_of_memory);
  EXPECT_EQ(
      exit_code_of(std::runtime_error("DefaultCPUAllocator: can't allocate memory: you tried")),
      ExitCode::out_of_memory);
  EXPECT_EQ(exit_code_of(std::invalid_argument("no step")), ExitCode::configuration);
  EXPECT_EQ(exit_code_of(std::filesystem::filesystem_error(
                "cannot get file size", "/x", std::make_error_code(std::errc::io_error))),
            ExitCode::io);
  EXPECT_EQ(exit_code_of(std::runtime_error("surprise")), ExitCode::internal);
}

}  // namespace
}  // namespace emoe::worker
