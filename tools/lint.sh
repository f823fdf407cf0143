#!/usr/bin/env bash
# All static checks; prints every problem, then fails if there was one.
#   EMOE_LINT_BASE=REV   clang-tidy looks at the C++ files changed since REV (default: HEAD, the uncommitted ones)
set -uo pipefail
cd "$(dirname "$0")/.." || exit
failures=0
check() {
  local name=$1
  shift
  if "$@"; then echo "[lint] $name: ok"; else
    echo "[lint] $name: FAILED"
    failures=$((failures + 1))
  fi
}

mapfile -t sources < <(git ls-files '*.h' '*.cc' '*.cu')
mapfile -t scripts < <(git ls-files '*.sh' .ci/run)
mapfile -t python < <(git ls-files '*.py')

changed_sources() {
  git diff --name-only --diff-filter=d "${EMOE_LINT_BASE:-HEAD}" -- '*.cc' | grep -v '^bench/' || true
}

tidy() {
  local files
  files=$(changed_sources)
  [ -z "$files" ] && return 0
  if [ ! -f build/release/compile_commands.json ]; then
    echo "[lint] clang-tidy needs build/release (make build); skipped for: $files"
    return 0
  fi
  # shellcheck disable=SC2086  # one word a file; GCC's precompiled header means nothing to clang
  clang-tidy -p build/release --quiet --extra-arg=-Wno-unknown-warning-option \
    --extra-arg=-Wno-ignored-optimization-argument $files 2>/dev/null
}

check "clang-format" clang-format --dry-run -Werror "${sources[@]}"
check "include direction" python3 tools/check_layers.py
check "file sizes" python3 tools/check_sizes.py
check "shellcheck" shellcheck "${scripts[@]}"
check "python syntax" python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' "${python[@]}"
check "clang-tidy (changed files)" tidy
[ "$failures" = 0 ]
