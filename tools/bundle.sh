#!/usr/bin/env bash
# build/emoe-bundle.tar.gz: the programs with the libraries they need, but without LibTorch, CUDA and the C library,
# for a host that has a Python `torch` 2.11 (on hosts with GPUs: with its CUDA libraries). Unpack anywhere and run
# bin/emoe-… ; the wrappers find torch through EMOE_TORCH_LIB, or by asking python3. With the checks of
# tools/gpu_check.sh where their programs were built.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/emoe-bundle
rm -rf "$out"
mkdir -p "$out"/{bin,libexec,lib,configs}

left_out='linux-vdso|ld-linux|/lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s|gomp)\.so|libtorch|libc10|libcud|libcupti|libnccl|libcublas|libnv'
# copy_libraries FILE: what it is linked with, into lib/.
copy_libraries() {
  ldd "$1" | awk '$3 ~ /^\// {print $3}' | grep -Ev "$left_out" |
    while read -r library; do cp -nL "$library" "$out/lib/"; done
}

# Modules that programs load at run time, from their own folder. That for GPUs finds its libraries behind LibTorch's.
cp build/bin/libemoe_sentencepiece.so "$out/libexec/"
copy_libraries build/bin/libemoe_sentencepiece.so
if [ -e build/bin/libemoe_cuda.so ]; then cp build/bin/libemoe_cuda.so "$out/libexec/"; fi

for program in emoe-coordinator emoe-worker emoe-supervise emoectl; do
  cp "build/bin/$program" "$out/libexec/"
  strip "$out/libexec/$program"
  copy_libraries "build/bin/$program"
  cat >"$out/bin/$program" <<'WRAPPER'
#!/bin/sh
here=$(cd "$(dirname "$0")/.." && pwd)
program=$(basename "$0")
# The coordinator starts libexec/emoe-worker, which finds LibTorch through the environment it inherits.
if [ "$program" != emoectl ]; then
  : "${EMOE_TORCH_LIB:=$(python3 -c 'import importlib.util as u, os; print(os.path.join(os.path.dirname(u.find_spec("torch").origin), "lib"))' 2>/dev/null)}"
  [ -e "$EMOE_TORCH_LIB/libtorch_cpu.so" ] || {
    echo "$program: no LibTorch; pip install torch==2.11.0, or set EMOE_TORCH_LIB to its lib folder" >&2; exit 64; }
fi
export LD_LIBRARY_PATH="$here/lib${EMOE_TORCH_LIB:+:$EMOE_TORCH_LIB}${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$here/libexec/$program" "$@"
WRAPPER
  chmod +x "$out/bin/$program"
done
cp -r configs/. "$out/configs/"

# What tools/gpu_check.sh does on a host with a GPU.
if [ -e build/bin/libemoe_cuda.so ] && [ -e build/release/tests/device_kernels_test ]; then
  mkdir -p "$out/gpu_check/demo" "$out/gpu_check/jobs"
  cp tools/gpu_check.sh tools/gpu_check.py "$out/gpu_check/"
  cp -r demo/base demo/data "$out/gpu_check/demo/"
  cp configs/demo/*.yaml "$out/gpu_check/jobs/"
  if [ -x build/python/bin/python ]; then build/python/bin/python tools/golden_jobs.py "$out/gpu_check/golden"; fi
  ln -s ../libexec/libemoe_cuda.so "$out/gpu_check/"
  for test in device_kernels_test nccl_test; do
    cp "build/release/tests/$test" "$out/gpu_check/"
    strip "$out/gpu_check/$test"
    copy_libraries "build/release/tests/$test"
  done
fi
# gzip: minimal hosts have no xz.
tar -C build -czf build/emoe-bundle.tar.gz emoe-bundle
size=$(stat -c %s build/emoe-bundle.tar.gz)
echo "build/emoe-bundle.tar.gz: $((size / 1048576)) MiB"
[ "$size" -le 60000000 ] || { echo "larger than 60 MB" >&2; exit 1; }
