#!/usr/bin/env bash
# Configures (once) and builds a CMake preset:  tools/build.sh PRESET JOBS [TARGET …]
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1 jobs=$2
shift 2

# A precompiled header is only found in the cache when its time stamps are not part of the key.
export CCACHE_SLOPPINESS=${CCACHE_SLOPPINESS:-pch_defines,time_macros,include_file_mtime,include_file_ctime}
# Clones in different folders share what they compile.
export CCACHE_BASEDIR=${CCACHE_BASEDIR:-$PWD} CCACHE_NOHASHDIR=${CCACHE_NOHASHDIR:-true}
export CCACHE_MAXSIZE=${CCACHE_MAXSIZE:-5G}

if [ ! -f "build/$preset/build.ninja" ]; then
  echo "[build] configuring build/$preset"
  cmake --preset "$preset" >"build/configure-$preset.log" 2>&1 ||
    { tail -n 40 "build/configure-$preset.log" >&2; rm -f "build/$preset/CMakeCache.txt"; exit 1; }
fi
if [ $# -gt 0 ]; then set -- --target "$@"; fi
cmake --build "build/$preset" -j "$jobs" "$@"
