// Headers of safetensors files: whatever is taken must lie in the file.
#include "format/safetensors_header.h"
#include "tests/fuzz/fuzz_folder.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace emoe;
  static const testing::FuzzFolder folder;
  const auto header =
      read_safetensors_header(folder.write("model.safetensors", testing::text_of(data, size)));
  if (!header.ok()) return 0;
  for (const auto& [name, tensor] : header->tensors) {
    testing::expect(tensor.begin <= tensor.end && tensor.end <= size);
    for (const int64_t length : tensor.shape) testing::expect(length >= 0);
  }
  return 0;
}
