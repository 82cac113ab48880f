#!/usr/bin/env bash
# Measures vb-gen on real datasets: rows, prompts with another length than planned, seconds and peak memory, as a Markdown table.
#
#   scripts/bench-datasets.sh [NAME=FILE...]    NAME is a --dataset-name, as mooncake=conversation_trace.jsonl; several files may share a name
#
# Without files only the synthetic datasets are measured. VB_BIN is the folder of the programs (default: a release build), TOKENIZER the
# tokenizer (default: builtin).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${VB_BIN:-$root/target/release}
[ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
PATH=$bin:$PATH
tokenizer=${TOKENIZER:-builtin}
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

# NAME and the flags of vb-gen.
row() {
  local name=$1 start end rows misfits peak
  shift
  start=$(date +%s%N)
  vb-gen --tokenizer "$tokenizer" "$@" 2>"$folder/stderr" >"$folder/pipe" &
  local pid=$!
  wc -l <"$folder/pipe" >"$folder/rows" &
  local counter=$!
  peak=0
  while kill -0 "$pid" 2>/dev/null; do
    peak=$(awk -v peak="$peak" '/VmHWM/ && $2 > peak { peak = $2 } END { print peak }' "/proc/$pid/status" 2>/dev/null || echo "$peak")
    sleep 0.02
  done
  wait "$pid" || { cat "$folder/stderr" >&2; exit 1; }
  wait "$counter"
  end=$(date +%s%N)
  rows=$(tr -d ' ' <"$folder/rows")
  misfits=$(sed -n 's/.*: \([0-9]*\) of [0-9]* prompts could not be made.*/\1/p' "$folder/stderr")
  printf '| %s | %s | %s | %.1f | %.0f |\n' "$name" "$rows" "${misfits:-0}" "$(((end - start) / 1000000))e-3" "$((peak / 1000))"
}

mkfifo "$folder/pipe"
echo '| dataset | rows | mismatches | seconds | peak memory, MB |'
echo '|---|---|---|---|---|'
for source in "$@"; do
  name=${source%%=*} file=${source#*=}
  case $name in
    sharegpt)
      row "sharegpt, $(basename "$file")" --dataset-name sharegpt --dataset-path "$file" --lenient --num-prompts 0
      row "sharegpt --multi-turn, $(basename "$file")" --dataset-name sharegpt --multi-turn --backend openai-chat --dataset-path "$file" --lenient --num-prompts 0
      ;;
    *)
      row "$name, $(basename "$file"), text" --dataset-name "$name" --dataset-path "$file"
      row "$name, $(basename "$file"), token ids" --dataset-name "$name" --dataset-path "$file" --prompt-token-ids
      ;;
  esac
done
row 'random' --num-prompts 10000
row 'random --cache-hit-ratio 0.6' --num-prompts 10000 --cache-hit-ratio 0.6
row 'random --scenario' --num-prompts 10000 --scenario 'N(480,240)/(300,150)'
row 'random-mm' --dataset-name random-mm --backend openai-chat --num-prompts 100
row 'random-rerank, 8 documents' --dataset-name random-rerank --random-batch-size 8 --num-prompts 1000
row 'prefix_repetition' --dataset-name prefix_repetition --num-prompts 10000
row 'generated-shared-prefix' --dataset-name generated-shared-prefix
row 'sonnet' --dataset-name sonnet --num-prompts 10000
row 'multi-turn, 5 turns' --dataset-name multi-turn --backend openai-chat --num-turns 5 --num-prompts 10000 --input-len 256
