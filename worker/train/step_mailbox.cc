#include "worker/train/step_mailbox.h"

#include <algorithm>
#include <cmath>

#include "base/check.h"

namespace emoe::worker {

namespace {

void write_double(std::span<float> slot, double value) {
  slot[0] = static_cast<float>(value);
  if (!std::isfinite(slot[0])) return;
  const double rest = value - static_cast<double>(slot[0]);
  slot[1] = static_cast<float>(rest);
  slot[2] = static_cast<float>(rest - static_cast<double>(slot[1]));
}

double read_double(std::span<const float> slot) {
  return static_cast<double>(slot[0]) +
         (static_cast<double>(slot[1]) + static_cast<double>(slot[2]));
}

}  // namespace

void write_note(std::span<float> mailbox, int rank, const StepNote& note) {
  std::fill(mailbox.begin(), mailbox.end(), 0.0F);
  const auto slot = mailbox.subspan(rank * kFloatsPerNote, kFloatsPerNote);
  write_double(slot, note.loss);
  write_double(slot.subspan(6), note.grad_norm);
  EMOE_CHECK(note.bad_tensor < (1 << 24), "a float counts no further");
  slot[3] = static_cast<float>(note.bad_tensor + 1);
  slot[4] = note.stop != StopRequest::none ? 1.0F : 0.0F;
  slot[5] = note.stop == StopRequest::checkpoint_and_stop ? 1.0F : 0.0F;
}

std::vector<StepNote> read_notes(std::span<const float> mailbox) {
  EMOE_CHECK(mailbox.size() % kFloatsPerNote == 0);
  std::vector<StepNote> notes;
  for (size_t begin = 0; begin < mailbox.size(); begin += kFloatsPerNote) {
    const auto slot = mailbox.subspan(begin, kFloatsPerNote);
    StepNote note;
    note.loss = read_double(slot);
    note.grad_norm = read_double(slot.subspan(6));
    note.bad_tensor = static_cast<int64_t>(slot[3]) - 1;
    if (slot[4] != 0.0F) note.stop = StopRequest::stop;
    if (slot[5] != 0.0F) note.stop = StopRequest::checkpoint_and_stop;
    notes.push_back(note);
  }
  return notes;
}

}  // namespace emoe::worker
