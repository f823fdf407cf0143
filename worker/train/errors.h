#pragma once

#include <stdexcept>

#include "worker/eval/non_finite_error.h"

namespace emoe::worker {

// What ends a training run, besides CommunicationError (71) and NonFiniteError (76).

// The checkpoint to resume from belongs to another job: other data, model or spec (exit code 64).
class ResumeError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A checkpoint could not be written when nothing would follow it, or not be read (exit code 74).
class CheckpointError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace emoe::worker
