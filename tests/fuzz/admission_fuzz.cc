// A job through the coordinator's admission, with a small model and data of its own.
#include "tests/fuzz/admission_input.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace emoe;
  static const testing::FuzzFolder folder;
  static const bool written = [] {
    testing::write_admission_files(folder.path());
    return true;
  }();
  (void)written;
  (void)testing::admit_input(folder.path(), testing::text_of(data, size));
  return 0;
}
