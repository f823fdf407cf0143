// A job through the coordinator's admission, with a small model and data of its own.
#include "tests/fuzz/admission_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const emoe::testing::FuzzFolder folder;
  static const bool written = [] {
    emoe::testing::write_admission_files(folder.path());
    return true;
  }();
  (void)written;
  (void)emoe::testing::admit_input(folder.path(), emoe::testing::text_of(data, size));
  return 0;
}
