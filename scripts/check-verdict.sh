#!/usr/bin/env bash
# Checks that vb-fire detects when it is too slow: the same load on an idle client and on a client limited to a tenth of a core.
#
#   scripts/check-verdict.sh         512 streams of a token every 20 ms from vb-sim on core 1, vb-fire on core 0:
#                                    when idle the verdict must be clean (exit 0); with each available limit it must be
#                                    client_bound (exit 5, because of --strict)
#
# Limits: `quota`, a cgroup with 10 % of a core (if one can be created), and `stops`, SIGSTOP for 90 ms of every 100.
# `hog`, another program on the same core at a higher priority, is also shown and must not be clean.
# VB_BIN names a folder with the programs; without it they are built first. Needs an idle machine with two cores.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
bin=${VB_BIN:-$root/target/release}
[ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"
streams=${VB_STREAMS:-512}
tokens=${VB_TOKENS:-100}
dir=$(mktemp -d)
groups=()
pids=()
trap 'kill "${pids[@]}" 2>/dev/null || true; rmdir "${groups[@]}" 2>/dev/null || true; rm -rf "$dir"' EXIT

pin() { # core, command, which replaces the (background) shell, so that signals reach it
  local core=$1
  shift
  if command -v taskset >/dev/null; then exec taskset -c "$core" "$@"; else exec "$@"; fi
}

pin 1 "$bin/vb-sim" --port 0 --step-base 20ms --step-per-prefill-token 0s --step-per-context-token 0s \
  --max-num-seqs 4096 --max-num-batched-tokens 1000000 --num-gpu-blocks 1000000 >"$dir/url" &
pids+=($!)
until [ -s "$dir/url" ]; do sleep 0.05; done
url=$(cat "$dir/url")
"$bin/vb-gen" --input-len 16 --output-len "$tokens" --num-prompts $((2 * streams)) >"$dir/requests"

fire() { # name: runs the load in the background and sets client to its process
  pin 0 "$bin/vb-fire" --base-url "$url" --max-concurrency "$streams" --ignore-eos --no-text --strict \
    <"$dir/requests" >"$dir/$1.ndjson" 2>"$dir/$1.err" &
  client=$!
}

failures=0
check() { # name, expected verdict, exit code
  local code=0 end
  wait "$client" || code=$?
  end=$(tail -n 1 "$dir/$1.ndjson")
  printf '%-6s exit %d  %s\n' "$1" "$code" "$(grep -o '"send_lag":.*' <<<"$end" || true)"
  sed 's/^/         /' "$dir/$1.err"
  local verdict
  verdict=$(grep -o '"verdict":"[a-z_]*"' <<<"$end" | cut -d'"' -f4)
  if [ "$2" = not_clean ]; then
    [ "$verdict" != clean ] || { echo "check-verdict: $1: verdict clean, expected another" >&2; failures=1; }
  elif [ "$verdict" != "$2" ] || [ "$code" != "$3" ]; then
    echo "check-verdict: $1: expected $2 and exit $3, got $verdict and $code" >&2
    failures=1
  fi
}

group() { # creates a cgroup (version 1 or 2) with 10 % of a core; prints its file for process ids
  local v1=/sys/fs/cgroup/cpu v2=/sys/fs/cgroup name=vb-check-verdict-$$
  if [ -e "$v1/cpu.cfs_quota_us" ] && mkdir "$v1/$name" 2>/dev/null; then
    echo 100000 >"$v1/$name/cpu.cfs_period_us" && echo 10000 >"$v1/$name/cpu.cfs_quota_us" && echo "$v1/$name/cgroup.procs"
  elif grep -qw cpu "$v2/cgroup.subtree_control" 2>/dev/null && mkdir "$v2/$name" 2>/dev/null; then
    echo "10000 100000" >"$v2/$name/cpu.max" && echo "$v2/$name/cgroup.procs"
  fi
}

fire idle
check idle clean 0

procs=$(group || true)
if [ -n "$procs" ]; then
  groups+=("${procs%/*}")
  fire quota
  echo "$client" >"$procs"
  check quota client_bound 5
else
  echo "quota  skipped: no cgroup can be created here"
fi

fire stops
while kill -STOP "$client" 2>/dev/null && sleep 0.09 && kill -CONT "$client" 2>/dev/null; do sleep 0.01; done
check stops client_bound 5

(while :; do :; done) &
hog=$!
pids+=("$hog")
if command -v taskset >/dev/null && taskset -cp 0 "$hog" >/dev/null; then
  fire hog
  renice -n 10 -p "$client" >/dev/null 2>&1 || true
  check hog not_clean 0
fi
exit "$failures"
