#!/usr/bin/env bash
# build/emoe-bundle.tar.xz: the programs with the libraries they need, but without LibTorch, CUDA and the C library,
# for a host that has a Python `torch` 2.11. Unpack anywhere and run bin/emoe-… ; the wrappers find torch through
# EMOE_TORCH_LIB, or by asking python3.
set -euo pipefail
cd "$(dirname "$0")/.."
out=build/emoe-bundle
rm -rf "$out"
mkdir -p "$out"/{bin,libexec,lib,configs}

left_out='linux-vdso|ld-linux|/lib(c|m|dl|rt|pthread|resolv|util|stdc\+\+|gcc_s|gomp)\.so|libtorch|libc10|libcud|libcupti|libnccl|libcublas|libnv'
# emoe-worker loads this module at run time, from its own folder.
cp build/bin/libemoe_sentencepiece.so "$out/libexec/"
ldd build/bin/libemoe_sentencepiece.so | awk '$3 ~ /^\// {print $3}' | grep -Ev "$left_out" |
  while read -r library; do cp -nL "$library" "$out/lib/"; done

for program in emoe-coordinator emoe-worker emoe-supervise emoectl; do
  cp "build/bin/$program" "$out/libexec/"
  strip "$out/libexec/$program"
  ldd "build/bin/$program" | awk '$3 ~ /^\// {print $3}' | grep -Ev "$left_out" |
    while read -r library; do cp -nL "$library" "$out/lib/"; done
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
tar -C build -cJf build/emoe-bundle.tar.xz emoe-bundle
size=$(stat -c %s build/emoe-bundle.tar.xz)
echo "build/emoe-bundle.tar.xz: $((size / 1048576)) MiB"
[ "$size" -le $((64 * 1048576)) ] || { echo "larger than 64 MiB" >&2; exit 1; }
