#!/usr/bin/env bash
# Compares realised with planned arrivals for every load shape, at 10, 100 and 1,000 requests per second, on vb-sim.
#
#   scripts/check-arrivals.sh [SECONDS]    how long each load lasts (default 4); prints a Markdown table
#
# Exits with 1 if a run with the verdict `clean` was not sent as planned (p < 0.001). VB_BIN is the folder of the programs (default: a release build).
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
seconds=${1:-4}
bin=${VB_BIN:-$root/target/release}
[ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
PATH=$bin:$PATH

folder=$(mktemp -d)
coproc SIM { exec vb-sim --port 0 --step-base 1ms --step-per-prefill-token 100ns; }
trap 'kill "$SIM_PID" 2>/dev/null; wait "$SIM_PID" 2>/dev/null || true; rm -rf "$folder"' EXIT
read -r url <&"${SIM[0]}"

failed=0
# NAME and the flags of vb-fire; requests come from standard input.
try() {
  local name=$1
  shift
  vb-fire --base-url "$url" --model tiny --preconnect 32 "$@" 2>/dev/null | jq -c 'select(.type == "end")' >"$folder/end.json"
  jq -r --arg name "$name" '.arrivals as $a | .arrivals.gaps as $g | def p: if . == null then "" else (. * 1000 | round / 1000) end;
    "| \($name) | \($a.planned) | \($a.distance * 1000 | round / 1000) | \($a.p | p) | \($g.distance // null | p) | \($g.p // null | p) | \($a.late.no_slot + $a.late.input + $a.late.client) | \(.send_lag.p99 * 1e6 | round) | \(.verdict) |"' \
    "$folder/end.json"
  jq -e '.verdict != "clean" or .arrivals.p >= 0.001' "$folder/end.json" >/dev/null || failed=1
}

requests() { vb-gen --num-prompts "$1" --input-len 16 --output-len 2 --seed "$2"; }

echo '| shape | requests | D | p | gaps D | gaps p | late | send lag p99, µs | verdict |'
echo '|---|---|---|---|---|---|---|---|---|'
seed=1
for rate in 10 100 1000; do
  n=$((rate * seconds))
  half=$((seconds / 2))s
  low=$((rate / 2))
  high=$((rate + low))
  printf 'time,rate\n0,%s\n%s,%s\n' "$low" "$seconds" "$high" >"$folder/rates.csv"
  while IFS='|' read -r name flags; do
    # shellcheck disable=SC2086 # the flags are several words
    requests "$n" "$seed" | try "$name, $rate/s" --seed "$seed" $flags
    seed=$((seed + 1))
  done <<SHAPES
constant|--request-rate $rate --burstiness inf
Poisson|--request-rate $rate
gamma, burstiness 0.5|--request-rate $rate --burstiness 0.5
linear ramp|--request-rate $low-$high:${seconds}s,$high
exponential ramp|--request-rate $low~$high:${seconds}s,$high
steps|--request-rate $low:$half,$high
a table of rates|--request-rate @$folder/rates.csv
bursts of 5|--request-rate $rate --burst-size 5
SHAPES
  requests "$n" "$seed" | jq -c --argjson rate "$rate" '.timestamp = ((input_line_number - 1) / $rate)' | try "timestamps, $rate/s"
  seed=$((seed + 1))
done
exit "$failed"
