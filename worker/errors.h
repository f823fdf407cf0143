#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

namespace emoe::worker {

// What ends a training run, besides CommunicationError (exit code 71).

// A loss, gradient, weight or logit is NaN or infinite (exit code 76). In training thrown on all
// ranks alike, before the step changed any weight.
class NonFiniteError : public std::runtime_error {
 public:
  // `rank` -1: only the sum over ranks is. `tensor`: parameter name, or "loss", "evaluation loss".
  NonFiniteError(int64_t step, int rank, const std::string& tensor)
      : std::runtime_error("step " + std::to_string(step) +
                           (rank >= 0 ? ", rank " + std::to_string(rank) : ", sum over ranks") +
                           ": " + tensor + " is not finite") {}
  // Outside training.
  explicit NonFiniteError(const std::string& message) : std::runtime_error(message) {}
};

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
