#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/diagnostics.h"

namespace emoe::config {

// What is to be said of a job that keeps every rule, where coordinator and worker find the same by the
// same facts. Without protobuf, so that code with tensors may include it.

// A run in which no step is past the warm-up of ceil(warmup_ratio · steps) steps: its rate never gets
// to what the job says, and with a single step it is 0.
void warn_of_warmup(double warmup_ratio, int64_t steps, Diagnostics& diagnostics);

// Rows that are in no batch: with drop_last an epoch leaves out the rest of its last one, always the
// same rows where there is one epoch or no shuffling. `epochs` is 0 where max_steps replaces it.
struct Batches {
  int64_t rows = 0;
  int64_t global_batch = 1;
  int64_t epochs = 0;
  bool drop_last = true;
  bool shuffle = true;
};
void warn_of_rest(const Batches& batches, Diagnostics& diagnostics);

// A model.dtype that was not given, where tensors of the base are stored in a dtype (`stored` says how
// many in each) whose values it does not hold.
void warn_of_dtype(bool given, const std::string& dtype,
                   const std::map<std::string, int64_t>& stored, Diagnostics& diagnostics);

}  // namespace emoe::config
