#!/usr/bin/env bash
# Runs a sweep: for each cell of the config's grid  vb-gen > requests, vb-fire < requests > outputs, vb-stats < outputs,
# then vb-agg over all cells, as a CSV and as summary.json, which `vllm bench sweep plot` and `plot_pareto` read. With a
# dataset_name and no input_output, the dataset sets the lengths.
#
#   scripts/sweep.sh [config.yaml] [--dry-run] [--new] [--results DIR]
#
#   --dry-run      print the commands without running them
#   --new          start in a new folder, even if an unfinished sweep of this config could be resumed
#   --results DIR  where to create the folder of the sweep (default: results, next to scripts/)
#
# Three lines are a config; any flag of the programs can be a key too, as range_ratio, backend or goodput:
#
#   base_url: http://127.0.0.1:8000
#   input_output: [[1024, 128]]
#   concurrency_prompts: [[1, 10], [8, 80], [32, 320]]
#
# To resume a sweep that was interrupted (Ctrl-C, a crash, a dead server) or in which cells failed, run the same command
# again: complete cells are not repeated. A folder has one sweep at a time, and its programs end with the script, even after
# kill -9. The copy of the config in the folder has no values of keys. VB_BIN names a folder with the programs; without it
# those in PATH are used, or they are built first.
set -uo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # follow symbolic links to the script
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
config='' results=${VB_HOME:-$root}/results dry=false new=false
while [ $# -gt 0 ]; do
  case $1 in
    --dry-run) dry=true ;;
    --new) new=true ;;
    --results) [ $# -gt 1 ] || die 2 '--results needs a folder'; results=$2; shift ;;
    -h | --help) help; exit 0 ;;
    --*) key=${1#--} && die 2 "unknown flag $1; flags of the programs are keys of the config, as \`${key//-/_}: …\`; see scripts/sweep.sh --help" ;;
    -*) die 2 "unknown flag $1; see scripts/sweep.sh --help" ;;
    *) [ -z "$config" ] || die 2 "only one config: $config or $1"; config=$1 ;;
  esac
  shift
done
config=${config:-${VB_HOME:-$root}/config.yaml}

find_programs

# The grid. If the user sets no seed, each sweep has new prompts, so that a server's prefix cache cannot contain the
# prompts of the previous sweep.
stamp=$(date +%Y%m%d_%H%M%S)
seed=()
# Without the values of keys: a copy of the config stays with the results.
safe_config() { "$bin/vb-gen" --config "$1" --grid config </dev/null; }
text=$(safe_config "$config") || exit $?
newline=$'\n'
[[ $newline$text =~ ${newline}seed[[:space:]]*: ]] || seed=(--seed "$(date +%s)")
list_cells() { "$bin/vb-gen" --config "$config" --grid tsv ${seed[@]+"${seed[@]}"}; }
cells=$(list_cells) || exit $?
IFS=$'\t' read -r _ _ _ _ _ _ base_url model <<<"$cells"
name=${model//[^A-Za-z0-9._-]/_}
served=(--served-model-name "$model")
[ "$model" != - ] || { name=model served=(); }

# The folder: the newest unfinished sweep of the same config, or a new one.
folder=''
if ! $new; then
  for old in "$results/${name}"_*/; do
    # Finished: it has a table, and no cell that failed.
    compgen -G "$old/aggregate_results_*.csv" >/dev/null && ! compgen -G "$old/*.failed" >/dev/null && continue
    [ -f "$old/config.yaml" ] && [ "$text" = "$(safe_config "$old/config.yaml" 2>/dev/null)" ] && folder=${old%/}
  done
fi
if [ -n "$folder" ]; then
  say "resuming $folder (--new starts a new one)"
  [ ! -f "$folder/seed" ] || { read -r old_seed <"$folder/seed" && seed=(--seed "$old_seed"); }
  cells=$(list_cells) || exit $?
else
  new_folder "$results/$name"
fi
if ! $dry; then
  lock_folder "$folder"
  printf '%s\n' "$text" >"$folder/config.yaml" || die 4 "cannot write to $folder"
  [ ${#seed[@]} -eq 0 ] || printf '%s\n' "${seed[1]}" >"$folder/seed"
fi

catch_signals
if [ "$base_url" = sim ]; then
  if $dry; then
    printf 'vb-sim'; printf ' %q' --config "$config" --port 0 ${served[@]+"${served[@]}"}; printf ' &\n'
    base_url='http://127.0.0.1:PORT'
  else
    start_sim "$folder/sim.url" --config "$config" ${served[@]+"${served[@]}"}
    base_url=$sim_url
  fi
fi
fire=(--config "$config" --base-url "$base_url")
[ "$model" = - ] || fire+=(--model "$model")

write_summary() { # of the cells so far, so that an interrupted sweep has one too
  local summary=$folder/summary.json
  "$bin/vb-agg" --format json --table never "$folder" >"$summary.part" </dev/null && mv "$summary.part" "$summary" ||
    $stopped || die 4 "cannot write $summary"
}

# How long a cell takes, up to a factor: waves of requests, each as long as its output.
estimate_work() { # prompts, output, concurrency: sets work
  local length=${2/#-/1}
  work=$(($1 * (length + 10) * 100 / $3 + 1))
}

describe_left() { # seconds: sets left
  if [ "$1" -lt 90 ]; then left="$1 s"; elif [ "$1" -lt 5400 ]; then left="$((($1 + 30) / 60)) min"; else left="$((($1 + 1800) / 3600)) h"; fi
}

colors=()
[ ! -t 2 ] || [ -n "${NO_COLOR:-}" ] || [ "${TERM:-}" = dumb ] || colors=(--color always)
total=0 number=0 failed=0 work=0 work_left=0 work_done=0
while IFS=$'\t' read -r _ output concurrency prompts _ cell _; do
  total=$((total + 1))
  [ -f "$folder/$cell.json" ] && [ ! -f "$folder/$cell.failed" ] && continue
  estimate_work "$prompts" "$output" "$concurrency"
  work_left=$((work_left + work))
done <<<"$cells"
started=$SECONDS
$dry || say "$total cells, in $folder"
while IFS=$'\t' read -r input output concurrency prompts cell_seed cell _ _; do
  number=$((number + 1))
  path=$folder/$cell
  gen_args=(--config "$config" --base-url "$base_url")
  [ "$input" = - ] || gen_args+=(--input-len "$input" --output-len "$output")
  gen_args+=(--num-prompts "$prompts" --seed "$cell_seed")
  fire_args=("${fire[@]}" --max-concurrency "$concurrency")
  if $dry; then
    printf 'vb-gen'; printf ' %q' "${gen_args[@]}"; printf ' > %q\n' "$path.requests.ndjson"
    printf 'vb-fire'; printf ' %q' "${fire_args[@]}"; printf ' < %q > %q\n' "$path.requests.ndjson" "$path.outputs.ndjson"
    printf 'vb-stats --config %q %q > %q\n' "$config" "$path.outputs.ndjson" "$path.json"
    continue
  fi
  if [ -f "$path.json" ] && [ ! -f "$path.failed" ]; then
    say "$number/$total $cell: already complete"
    continue
  fi
  export VB_CELL=$number/$total # the line below has the verdict of vb-fire
  rm -f "$path.json" "$path.failed"
  "$bin/vb-gen" "${gen_args[@]}" >"$path.requests.ndjson" </dev/null || {
    code=$?
    $stopped && die 130 "stopped; run the same command again to resume"
    die "$code" "vb-gen failed on $cell"
  }
  "$bin/vb-fire" "${fire_args[@]}" <"$path.requests.ndjson" >"$path.outputs.ndjson"
  code=$?
  # 1: more requests failed than --fail-above allows, for example because the server died. The table has the cell with its
  # failures, and a resumed sweep tries it again. If none succeeded, the other cells would fail as this one did.
  case $code in
    0) ;;
    1) any_success "$path.outputs.ndjson" ||
        die 1 "stopped at $cell, in which every request failed: see the message above; run the same command again to resume" ;;
    *) die "$code" "stopped at $cell; run the same command again to resume" ;;
  esac
  line=$("$bin/vb-stats" --config "$config" --table line ${colors[@]+"${colors[@]}"} "$path.outputs.ndjson" 2>&1 >"$path.json.part" </dev/null)
  stats_code=$? # 1: a limit of fail_if in the config
  [ "$stats_code" -le 1 ] && mv "$path.json.part" "$path.json" || {
    $stopped && die 130 "stopped; run the same command again to resume"
    die 4 "vb-stats failed on $cell: $line"
  }
  write_summary
  estimate_work "$prompts" "$output" "$concurrency"
  work_left=$((work_left - work)) work_done=$((work_done + work)) left=''
  if [ -t 2 ] && [ "$work_left" -gt 0 ]; then
    describe_left $(((SECONDS - started) * work_left / work_done))
    left="; about $left left"
  fi
  printf '%s %s %s: %s\n' 'sweep:' "$number/$total" "${cell#bench_}" "$line$left" >&2
  [ "$code$stats_code" = 00 ] || { failed=$((failed + 1)) && : >"$path.failed"; }
  $stopped && die 130 "stopped; run the same command again to resume"
done <<<"$cells"

csv=$folder/aggregate_results_${stamp%_*}.csv
if $dry; then
  printf 'vb-agg %q > %q\n' "$folder" "$csv"
  printf 'vb-agg --format json %q > %q\n' "$folder" "$folder/summary.json"
  exit 0
fi
write_summary
"$bin/vb-agg" --table always "$folder" >"$csv.part" </dev/null || die 4 "vb-agg failed"
rm -f "$folder"/aggregate_results_*.csv # from an earlier day, when a cell failed
mv "$csv.part" "$csv" || die 4 "cannot write $csv"
say "this table is $csv; the requests, outputs and results of each cell are in the same folder"
[ "$failed" -eq 0 ] || die 1 "in $failed of $total cells too many requests failed, or a limit was exceeded: see the messages above; run the same command again to retry these cells"
