#!/usr/bin/env bash
# Checks and measures the worker on a GPU, from an unpacked bundle (make bundle) on a host that has a driver, Python's
# torch 2.11 for CUDA 13 and nothing else of ours:
#
#   gpu_check/gpu_check.sh 1|2|all [RESULTS]      RESULTS: gpu-check-results in the current folder
#
# Part 1 (3 minutes): kernels against the CPU's (and under compute-sanitizer where there is one), NCCL, logits, the demo's jobs in
# fp32 against the CPU, the golden cases.
# Part 2 (6 minutes): a 7B-shaped model made on the spot, LoRA and EMoE, packed and padded, and full tuning, in bf16: tokens/s beside
# the bare matrix products of the same steps and, where they are installed, transformers + PEFT.
# Each check leaves RESULTS/NAME.json when it is done; a check that is there is not made again, so a run that was cut off is
# continued by the same command. RESULTS/table.txt has what there is so far. Exit code 1 where a check failed.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
part=${1:-all}
case $part in
-h | --help)
  sed -n '2,/^set -/{/^#/!d;s/^# \{0,1\}//;p}' "$0"
  exit 0
  ;;
1 | 2 | all) ;;
*)
  echo "gpu_check.sh: part '$part': 1, 2 or all" >&2
  exit 64
  ;;
esac
python3 -c 'import torch' 2>/dev/null || {
  echo "gpu_check.sh: python3 has no torch; pip install torch==2.11.0" >&2
  exit 64
}
exec python3 "$here/gpu_check.py" "$part" "${2:-gpu-check-results}"
