#!/bin/sh
# with_avx2.sh COMMAND …: runs it as on a CPU without AVX-512 and AMX, as far as LibTorch, oneDNN and MKL can be told.
# Our own kernels obey ATEN_CPU_CAPABILITY too. Skips (77) where the CPU has no AVX-512: the plain test was that already.
if ! grep -qw avx512f /proc/cpuinfo; then
  echo "this CPU has no AVX-512: the test of the same name without .avx2 ran with AVX2"
  exit 77
fi
export ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 MKL_ENABLE_INSTRUCTIONS=AVX2
exec "$@"
