#!/usr/bin/env bash
# Measures what a request costs vb-fire: short answers from nginx, as fast as it takes them, next to wrk.
#
#   scripts/bench-short.sh [--rounds N] [--requests N] [--concurrency N] [--input-len N] [--out FILE]
#
# nginx answers each request at once with the same bytes: a completion or an embedding. The client has core 0 and nginx core 1;
# then the client has --threads 2 and cores 0 and 1, and nginx cores 2 and 3, or the same ones if there are no others. vb-fire
# writes its records to a file. wrk, which reads no answer and records nothing, sends the same bodies.
#
# Each run is a line of FILE (default results/bench-short.ndjson): client, api, threads, requests, seconds on the clock of the
# client, requests per second, CPU microseconds per request, and the ratio to the run of wrk before it (null without wrk). The
# medians go to standard output. The rates need a quiet machine; the ratios suffer less.
#
# Needs nginx, and wrk for the ratios: Debian's packages have these names. VB_BIN is a folder with the project's programs,
# which are then not built.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
rounds=3 requests=100000 concurrency=64 input_len=128 out=$root/results/bench-short.ndjson
say() { echo "bench-short: $*" >&2; }
while [ $# -gt 0 ]; do
  case $1 in
  --rounds) rounds=$2 ;;
  --requests) requests=$2 ;;
  --concurrency) concurrency=$2 ;;
  --input-len) input_len=$2 ;;
  --out) out=$2 ;;
  *)
    sed -n '2,17p' "$0" >&2
    [ "$1" = --help ] || [ "$1" = -h ] || exit 2
    exit 0
    ;;
  esac
  shift 2
done

PATH=$PATH:/usr/sbin
command -v nginx >/dev/null || { say "skipped: nginx is not installed (apt-get install nginx)"; exit 0; }
[ "$(nproc)" -ge 2 ] || { say "skipped: it takes two cores, and this machine has one"; exit 0; }
command -v wrk >/dev/null || say "without ratios: wrk is not installed (apt-get install wrk)"
if [ -n "${VB_BIN:-}" ]; then
  bin=$VB_BIN
else
  cargo build --release --locked --quiet --bins --manifest-path "$root/Cargo.toml"
  bin=$root/target/release
fi

work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir -p "$(dirname "$out")"
: >"$out"

usage='"usage":{"prompt_tokens":'$input_len',"total_tokens":'$((input_len + 8))',"completion_tokens":8}'
completion='{"id":"c","object":"text_completion","created":1,"model":"m","choices":[{"index":0,"text":" a short answer of eight tokens in all","logprobs":null,"finish_reason":"length"}],'$usage'}'
embedding='{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.0125,-0.25,0.5,0.75]}],"model":"m",'$usage'}'

# Starts nginx with this number of workers on these cores; waits until it answers.
start_server() {
  local workers=$1 cores=$2 port=18000
  while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
  cat >"$work/nginx.conf" <<CONF
worker_processes $workers;
daemon off;
pid $work/nginx.pid;
error_log $work/error.log;
events { worker_connections 4096; }
http {
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path $work/body; proxy_temp_path $work/proxy; fastcgi_temp_path $work/fastcgi;
  uwsgi_temp_path $work/uwsgi; scgi_temp_path $work/scgi;
  default_type application/json;
  server {
    listen 127.0.0.1:$port reuseport;
    location = /v1/completions { return 200 '$completion'; }
    location = /v1/embeddings { return 200 '$embedding'; }
    location / { return 200 '{"object":"list","data":[{"id":"m","object":"model"}]}'; }
  }
}
CONF
  taskset -c "$cores" nginx -e "$work/error.log" -c "$work/nginx.conf" &
  server=$! url=http://127.0.0.1:$port
  for _ in $(seq 100); do
    (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null && return
    sleep 0.05
  done
  say "nginx does not start: $(tail -1 "$work/error.log")"
  exit 1
}

stop_server() {
  kill "$server" 2>/dev/null || true
  wait "$server" 2>/dev/null || true
  server=
}

record() { # client, api, threads, requests, seconds, CPU seconds, requests per second of wrk or null
  local numbers
  numbers=$(awk -v n="$4" -v s="$5" -v u="$6" -v w="$7" 'BEGIN {
    printf "%.0f %.2f %s", n / s, u * 1e6 / n, w == "null" ? w : sprintf("%.3f", n / s / w) }')
  echo "$1 $2 $3 $numbers" >>"$work/runs"
  read -r rate cost ratio <<<"$numbers"
  printf '{"client":"%s","api":"%s","threads":%d,"requests":%d,"seconds":%s,"per_second":%s,"cpu_us_per_request":%s,"ratio_to_wrk":%s}\n' \
    "$1" "$2" "$3" "$4" "$5" "$rate" "$cost" "$ratio" >>"$out"
}

TIMEFORMAT='%U %S'
run_wrk() { # api, key of the prompt, threads, cores: prints requests per second
  local body
  body=$(head -1 "$work/requests.ndjson" | sed 's/.*"prompt":\("[^"]*"\).*/\1/')
  cat >"$work/post.lua" <<LUA
wrk.method, wrk.headers["content-type"] = "POST", "application/json"
wrk.body = [==[{"model":"m","$2":$body,"max_tokens":8,"stream":false}]==]
LUA
  { time taskset -c "$4" wrk -t "$3" -c "$concurrency" -d 3s -s "$work/post.lua" "$url/v1/$1" >"$work/wrk.txt"; } 2>"$work/wrk.time"
  local sent seconds
  read -r sent seconds < <(awk '/requests in/ { sub(/s,$/, "", $4); print $1, $4 }' "$work/wrk.txt")
  record wrk "$1" "$3" "$sent" "$seconds" "$(awk '{ print $1 + $2 }' "$work/wrk.time")" null
  awk -v n="$sent" -v s="$seconds" 'BEGIN { print n / s }'
}

run_fire() { # api, backend, threads, cores, requests per second of wrk or null
  { time taskset -c "$4" "$bin/vb-fire" --base-url "$url" --model m --backend "$2" --no-stream --threads "$3" \
    --max-concurrency "$concurrency" <"$work/requests.ndjson" >"$work/out.ndjson" 2>"$work/fire.err"; } 2>"$work/fire.time" || {
    say "vb-fire failed: $(tail -1 "$work/fire.err")"
    exit 1
  }
  local seconds
  seconds=$(tail -1 "$work/out.ndjson" | sed 's/.*"duration":\([0-9.]*\).*/\1/')
  record vb-fire "$1" "$3" "$requests" "$seconds" "$(awk '{ print $1 + $2 }' "$work/fire.time")" "$5"
}

"$bin/vb-gen" --dataset-name random --num-prompts "$requests" --random-input-len "$input_len" --random-output-len 8 \
  >"$work/requests.ndjson" 2>/dev/null
for threads in 1 2; do
  client_cores=0 server_cores=1
  if [ "$threads" = 2 ]; then
    client_cores=0,1 server_cores=2,3
    if [ "$(nproc)" -lt 4 ]; then
      say "--threads 2: nginx shares the two cores with the client"
      server_cores=0,1
    fi
  fi
  start_server "$threads" "$server_cores"
  for _ in $(seq "$rounds"); do
    for api in "completions openai prompt" "embeddings openai-embeddings input"; do
      read -r name backend key <<<"$api"
      wrk=null
      if command -v wrk >/dev/null; then wrk=$(run_wrk "$name" "$key" "$threads" "$client_cores"); fi
      run_fire "$name" "$backend" "$threads" "$client_cores" "$wrk"
    done
  done
  stop_server
done

# The run with the median rate of each kind.
printf '%-8s  %-11s  %7s  %10s  %14s  %12s\n' client api threads requests/s 'CPU µs/request' 'ratio to wrk'
cut -d' ' -f1-3 "$work/runs" | sort -u | while read -r client api threads; do
  grep "^$client $api $threads " "$work/runs" | sort -n -k4 | sed -n "$(((rounds + 1) / 2))p" |
    awk '{ printf "%-8s  %-11s  %7d  %10d  %14.1f  %12s\n", $1, $2, $3, $4, $5, $6 == "null" ? "" : $6 }'
done
say "all runs are in $out"
