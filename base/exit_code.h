#pragma once

namespace emoe {

// How a rank's process ends, for the launcher, the coordinator, emoectl --wait and scripts (after
// sysexits.h). docs/ERRORS.md says what to do about each.
enum class ExitCode {
  done = 0,
  configuration = 64,  // the job asks for something wrong, or names a file that is not there
  data = 65,           // a model, tokenizer, adapter or data file is not what it should be
  internal = 70,       // a bug
  peer_lost = 71,      // another rank or the coordinator is gone
  io = 74,             // disk full, cannot write
  preempted = 75,   // stopped by a signal, where it trains with a checkpoint; to be started again
  non_finite = 76,  // a loss or gradient is NaN or infinite
  out_of_memory = 77,
};

}  // namespace emoe
