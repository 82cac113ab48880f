#!/usr/bin/env bash
# Measures vb-fire and other load generators against the truth: the server's log of the time at which each token left, of
# vb-sim and of examples/referee, which shares no code with it.
#
#   scripts/bench-peers.sh [--peers "vllm-rs vllm aiperf guidellm"] [OPTIONS…]
#
# Installs the peers that --peers names (default: all four; "" for none) unless they are installed, builds the project, and
# writes docs/ACCURACY.md. Other options go to scripts/bench_peers.py: --help lists them, --quick is a trial of some minutes.
# By default it takes about an hour, most of it for the start-up of the peers in Python.
#
# VB_PEERS is the folder for the peers (default ~/.cache/vb-peers): vllm-rs 60 MB (from a wheel of 340 MB), vllm 6 GB,
# aiperf 0.9 GB, guidellm 6 GB. VLLM=/path/to/vllm uses an installed vLLM. VB_BIN is a folder with the project's programs
# (and `floor` and `referee`, from examples/), which are then not built. TOKENIZER is the tokenizer.json of a real model, for all
# clients. Needs Linux, two cores, python3 with venv and pip.
set -euo pipefail

vllm_rs=0.33.0 aiperf=0.13.0 guidellm=0.8.1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${VB_PEERS:-$HOME/.cache/vb-peers}
peers="vllm-rs vllm aiperf guidellm"
args=()
# The command line, for the document.
export VB_COMMAND="${TOKENIZER:+TOKENIZER=${TOKENIZER##*/} }scripts/bench-peers.sh"
[ $# -eq 0 ] || VB_COMMAND+=$(printf ' %q' "$@")
while [ $# -gt 0 ]; do
  case $1 in
  --peers)
    peers=${2?--peers needs a list, as --peers "vllm-rs aiperf"}
    shift
    ;;
  --peers=*) peers=${1#--peers=} ;;
  -h | --help)
    sed -n '2,15p' "$0" >&2
    exec python3 "$root/scripts/bench_peers.py" --help
    ;;
  *) args+=("$1") ;;
  esac
  shift
done
mkdir -p "$cache"

say() { echo "bench-peers: $*" >&2; }

# Creates a virtual environment and installs packages with uv, which is much faster than pip for packages of gigabytes.
venv() {
  local dir=$1
  shift
  rm -rf "$dir"
  python3 -m venv "$dir" &&
    "$dir/bin/pip" install --quiet --disable-pip-version-check uv &&
    "$dir/bin/uv" pip install --quiet --python "$dir/bin/python" "$@"
}

install_vllm_rs() {
  local dir=$cache/vllm-rs-$vllm_rs wheels
  wheels=$(mktemp -d "$cache/wheel.XXXXXX")
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$wheels" "vllm==$vllm_rs" &&
    python3 -c 'import sys, zipfile; zipfile.ZipFile(sys.argv[1]).extract("vllm/vllm-rs", sys.argv[2])' \
      "$wheels"/vllm-*.whl "$wheels" &&
    mkdir -p "$dir" && mv "$wheels/vllm/vllm-rs" "$dir/" && chmod +x "$dir/vllm-rs"
  local status=$?
  rm -rf "$wheels"
  return $status
}

# Installs a peer unless it is installed.
peer() {
  local name=$1 program=$2
  shift 2
  if [ ! -x "$program" ] || [ ! -f "$cache/installed-$name" ]; then
    say "installing $name into $cache"
    "$@" || { skip_peer "$name"; return; }
    touch "$cache/installed-$name"
  fi
  args+=("--$name" "$program")
}

# Lists the peer as missing in the document.
skip_peer() {
  say "$1 cannot be installed; continuing without it"
  args+=("--missing" "$1")
}

for name in $peers; do
  case $name in
  vllm-rs) peer vllm-rs "$cache/vllm-rs-$vllm_rs/vllm-rs" install_vllm_rs ;;
  vllm)
    if [ -n "${VLLM:-}" ]; then
      args+=(--vllm "$VLLM")
    elif "$root/scripts/install-vllm.sh" "$cache/vllm"; then
      args+=(--vllm "$cache/vllm/bin/vllm")
    else
      skip_peer vllm
    fi
    ;;
  aiperf) peer aiperf "$cache/aiperf-$aiperf/bin/aiperf" venv "$cache/aiperf-$aiperf" "aiperf==$aiperf" ;;
  guidellm) peer guidellm "$cache/guidellm-$guidellm/bin/guidellm" venv "$cache/guidellm-$guidellm" "guidellm==$guidellm" ;;
  *)
    say "unknown peer $name; use vllm-rs, vllm, aiperf or guidellm"
    exit 2
    ;;
  esac
done

if [ -n "${VB_BIN:-}" ]; then
  bin=$VB_BIN floor=$VB_BIN/floor referee=$VB_BIN/referee
else
  cargo build --release --locked --quiet --bins --example floor --example referee --manifest-path "$root/Cargo.toml"
  bin=$root/target/release floor=$bin/examples/floor referee=$bin/examples/referee
fi
[ ! -x "$floor" ] || args+=(--floor "$floor")
[ ! -x "$referee" ] || args+=(--referee "$referee")

# A load of 4,096 streams needs as many sockets on either side.
ulimit -n "$(ulimit -Hn)"
exec python3 "$root/scripts/bench_peers.py" --bin "$bin" "${args[@]}"
