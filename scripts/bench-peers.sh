#!/usr/bin/env bash
# Measures vb-fire and other load generators against the truth: vb-sim's log of when each token really left.
#
#   scripts/bench-peers.sh [--peers "vllm-rs vllm aiperf guidellm"] [OPTIONS…]
#
# Installs the peers named by --peers (default: all four; "" for none) where they are not yet installed, builds the project,
# and writes docs/ACCURACY.md. The other options are those of scripts/bench_peers.py: --help lists them, --quick is a trial
# of some minutes. All by default takes about an hour, most of it the start-up of the peers in Python.
#
# VB_PEERS is where the peers go (default ~/.cache/vb-peers): vllm-rs 60 MB (a wheel of 340 MB is fetched for it), vllm 6 GB,
# aiperf 0.9 GB, guidellm 6 GB. VLLM=/path/to/vllm takes a vLLM that is there. VB_BIN is a folder with the project's programs
# (and `floor`, of examples/floor.rs) instead of building them. TOKENIZER is the tokenizer.json of a real model, for all of
# them. Needs Linux, two cores, python3 with venv and pip.
set -euo pipefail

vllm_rs=0.33.0 aiperf=0.13.0 guidellm=0.8.1
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${VB_PEERS:-$HOME/.cache/vb-peers}
peers="vllm-rs vllm aiperf guidellm"
args=()
# What was typed, for the document.
export VB_COMMAND="${TOKENIZER:+TOKENIZER=${TOKENIZER##*/} }scripts/bench-peers.sh"
[ $# -eq 0 ] || VB_COMMAND+=$(printf ' %q' "$@")
while [ $# -gt 0 ]; do
  case $1 in
  --peers)
    peers=${2?--peers wants a list, as --peers "vllm-rs aiperf"}
    shift
    ;;
  --peers=*) peers=${1#--peers=} ;;
  -h | --help)
    sed -n '2,14p' "$0" >&2
    exec python3 "$root/scripts/bench_peers.py" --help
    ;;
  *) args+=("$1") ;;
  esac
  shift
done
mkdir -p "$cache"

say() { echo "bench-peers: $*" >&2; }

# Makes a virtual environment and runs uv in it, which is much quicker than pip with packages of gigabytes.
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

# Installs a peer if it is not there.
peer() {
  local name=$1 program=$2
  shift 2
  if [ ! -x "$program" ] || [ ! -f "$cache/installed-$name" ]; then
    say "installing $name into $cache"
    "$@" || { left_out "$name"; return; }
    touch "$cache/installed-$name"
  fi
  args+=("--$name" "$program")
}

# The document says so.
left_out() {
  say "$1 cannot be installed; going on without it"
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
      left_out vllm
    fi
    ;;
  aiperf) peer aiperf "$cache/aiperf-$aiperf/bin/aiperf" venv "$cache/aiperf-$aiperf" "aiperf==$aiperf" ;;
  guidellm) peer guidellm "$cache/guidellm-$guidellm/bin/guidellm" venv "$cache/guidellm-$guidellm" "guidellm==$guidellm" ;;
  *)
    say "no peer is called $name; there are vllm-rs, vllm, aiperf and guidellm"
    exit 2
    ;;
  esac
done

if [ -n "${VB_BIN:-}" ]; then
  bin=$VB_BIN floor=$VB_BIN/floor
else
  cargo build --release --locked --quiet --bins --example floor --manifest-path "$root/Cargo.toml"
  bin=$root/target/release floor=$bin/examples/floor
fi
[ ! -x "$floor" ] || args+=(--floor "$floor")

# A load of 4,096 streams needs that many sockets on either side.
ulimit -n "$(ulimit -Hn)"
exec python3 "$root/scripts/bench_peers.py" --bin "$bin" "${args[@]}"
