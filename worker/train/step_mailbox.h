#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "worker/report/progress_sink.h"

namespace emoe::worker {

// What a rank tells the others in a step, besides its gradient.
struct StepNote {
  double loss = 0.0;                     // this rank's share of the global loss
  double grad_norm = 0.0;                // of its part, where the ranks share the gradient
  int64_t bad_tensor = -1;               // first parameter whose own gradient is not finite, or -1
  StopRequest stop = StopRequest::none;  // asked of it, for this step's edge
};

// The notes of all ranks ride at the end of the gradient buffer, so that a step has one all-reduce:
// every rank writes its own few floats and leaves the others' at 0, so the sum delivers each note
// unchanged. A double travels as three floats that add up to it exactly; the ranks' losses are then
// added in rank order, the same on all.
inline constexpr int64_t kFloatsPerNote = 9;

// `mailbox` has world_size * kFloatsPerNote floats; all but this rank's are set to 0.
void write_note(std::span<float> mailbox, int rank, const StepNote& note);
// One per rank, from the mailbox after the all-reduce.
[[nodiscard]] std::vector<StepNote> read_notes(std::span<const float> mailbox);

}  // namespace emoe::worker
