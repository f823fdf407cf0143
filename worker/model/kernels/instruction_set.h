#pragma once

namespace emoe::worker {

// What kernels are compiled for, the plainest first; a processor with one has all before it.
enum class InstructionSet { base, avx2, avx512, avx512_bf16 };

// The best that this processor has. ATEN_CPU_CAPABILITY=avx2, which LibTorch obeys, is obeyed too.
[[nodiscard]] InstructionSet best_instruction_set();

// Of kernels compiled for each instruction set, or for the first few: those for `index`, null where
// the processor or `sets` lacks it.
template <typename Set, int Count>
[[nodiscard]] const Set* supported_set(const Set* const (&sets)[Count], int index) {
  const int best = static_cast<int>(best_instruction_set());
  return index < Count && index <= best ? sets[index] : nullptr;
}
// The best of them.
template <typename Set, int Count>
[[nodiscard]] const Set& best_set(const Set* const (&sets)[Count]) {
  const int best = static_cast<int>(best_instruction_set());
  return *sets[best < Count ? best : Count - 1];
}

}  // namespace emoe::worker
