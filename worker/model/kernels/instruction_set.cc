#include "worker/model/kernels/instruction_set.h"

#include <cstdlib>
#include <string_view>

namespace emoe::worker {
namespace {

#if defined(__x86_64__)
InstructionSet found() {
  const char* limit = std::getenv("ATEN_CPU_CAPABILITY");
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
    return InstructionSet::base;
  }
  if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
      !__builtin_cpu_supports("avx512vl") || !__builtin_cpu_supports("avx512dq") ||
      (limit != nullptr && std::string_view(limit) == "avx2")) {
    return InstructionSet::avx2;
  }
  return __builtin_cpu_supports("avx512bf16") ? InstructionSet::avx512_bf16
                                              : InstructionSet::avx512;
}
#else
InstructionSet found() {
  return InstructionSet::base;
}
#endif

}  // namespace

InstructionSet best_instruction_set() {
  static const InstructionSet best = found();
  return best;
}

}  // namespace emoe::worker
