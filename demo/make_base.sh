#!/usr/bin/env bash
# Makes the demo's small base model and its instruction data again, from Debian's wordnet-base, with this project's own
# tools: text -> tokenizer -> full training from random weights -> demo/base. About ten minutes on two cores. The result
# is committed, so `make demo` needs none of this.
#
#   demo/make_base.sh [KEY=VALUE ...]     overrides for demo/base.yaml, such as train.epochs=4
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"
work=build/demo-base
worker=$root/build/bin/emoe-worker
vocabulary=1280

fail() { echo "make_base.sh: $*" >&2; exit 1; }
[[ -x $worker ]] || fail "no $worker; run 'make build' first"
[[ -f /usr/share/wordnet/data.noun ]] || fail "no WordNet; run 'apt-get install wordnet-base' first"

overrides=()
for override in "$@"; do
  overrides+=(--set "$override")
done

echo "== text and instruction data"
mkdir -p "$work"
python3 demo/make_data.py --text "$work/text.txt" --data demo/data

echo "== tokenizer of $vocabulary pieces"
"$worker" train-tokenizer --text "$work/text.txt" --vocab-size "$vocabulary" --out "$work/tokenizer.model"

echo "== training (steps in $work/run/metrics.jsonl)"
rm -rf "$work/run"
ranks=2
for override in "$@"; do
  if [[ $override == parallel.ranks=* ]]; then ranks=${override#*=}; fi
done
run=("$worker" run demo/base.yaml --out "$work/run")
if ((${#overrides[@]})); then run+=("${overrides[@]}"); fi
if ((ranks > 1)); then
  run=(mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" "${run[@]}")
fi
"${run[@]}"

model=$work/run/export/model
[[ -f $model/model.safetensors ]] || fail "the run published no $model"
[[ -f $model/tokenizer.model ]] || cp "$work/tokenizer.model" "$model/"

echo "== what it says"
"$worker" generate --model "$model" --prompt "magnet (noun):" --max-tokens 40

# Under another name first: an interrupted copy must not pass for a model.
rm -rf demo/base.new
cp -r "$model" demo/base.new
rm -rf demo/base
mv demo/base.new demo/base
bytes=$(du -sb demo/base demo/data | awk '{sum += $1} END {print sum}')
echo "== demo/base is new; model and data together have $bytes bytes"
((bytes < 4000000)) || fail "more than 4 MB: too much to commit"
