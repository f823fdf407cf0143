#!/usr/bin/env bash
# All static checks; prints every problem, then fails if there was one.
#   EMOE_LINT_BASE=REV   clang-tidy looks at the C++ files changed since REV (default: see tools/tidy.py)
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

# New files too: what is not committed yet is what one wants to hear about.
files() { git ls-files --cached --others --exclude-standard --deduplicate -- "$@" | while read -r file; do
  [ -e "$file" ] && echo "$file"
done; }
mapfile -t sources < <(files '*.h' '*.cc' '*.cu')
mapfile -t scripts < <(files '*.sh' .ci/run 'deploy/docker/emoe-*' 'deploy/slurm/*.sbatch')
mapfile -t python < <(files '*.py')

check "clang-format" clang-format --dry-run -Werror "${sources[@]}"
check "include direction" python3 tools/check_layers.py
check "file sizes" python3 tools/check_sizes.py
check "docs" python3 tools/check_docs.py
check "shellcheck" shellcheck "${scripts[@]}"
check "python syntax" python3 -c 'import ast, sys; [ast.parse(open(f).read(), f) for f in sys.argv[1:]]' "${python[@]}"
check "clang-tidy (changed files)" tools/tidy.py
[ "$failures" = 0 ]
