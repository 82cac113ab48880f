#!/usr/bin/env bash
# Checks this project against a real vLLM, on a CPU: no GPU, no model download.
#
#   scripts/check-vllm.sh            installs vLLM if needed (a minute, 6 GB), serves a tiny model with random weights and the
#                                    built-in tokenizer, runs the checks of scripts/check_vllm.py, prints their table
#
# VB_VLLM_DIR is the folder for vLLM (default target/vllm); an existing installation is reused. Needs python3 with venv and pip.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
dir=${VB_VLLM_DIR:-$root/target/vllm}
mkdir -p "$dir"

"$root/scripts/install-vllm.sh" "$dir/venv"

bin=${VB_BIN:-$root/target/release}
[ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml"

"$dir/venv/bin/python" "$root/scripts/check_vllm.py" model "$root/src/tokens/builtin.json" "$dir/model"

# Below the range of ports that the system assigns, so that no other program takes one of these before the servers start.
free_port() {
  "$dir/venv/bin/python" - "$1" <<'PYTHON'
import socket, sys
for port in range(int(sys.argv[1]), 32768):
    with socket.socket() as s:
        try:
            s.bind(("127.0.0.1", port))
        except OSError:
            continue
    print(port)
    break
PYTHON
}
port=$(free_port 18000)
pooling=$(free_port $((port + 1)))
export HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1 VLLM_TARGET_DEVICE=cpu
export VLLM_CPU_KVCACHE_SPACE=1 VLLM_CPU_OMP_THREADS_BIND=nobind OMP_NUM_THREADS=1 VLLM_SERVER_DEV_MODE=1
PATH=$dir/venv/bin:$PATH
serve() {
  exec vllm serve "$dir/model" --served-model-name tiny --load-format dummy --dtype bfloat16 --max-model-len 8192 \
    --max-num-batched-tokens 4096 --enforce-eager --host 127.0.0.1 "$@"
}
# One server that generates, with two adapters and tool calls, and one for embeddings.
serve --port "$port" --max-num-seqs 64 --enable-lora --max-loras 2 --max-lora-rank 8 \
  --lora-modules "one=$dir/model-one" "two=$dir/model-two" \
  --enable-auto-tool-choice --tool-call-parser pythonic >"$dir/serve.log" 2>&1 &
server=$!
serve --port "$pooling" --max-num-seqs 16 --runner pooling --convert embed >"$dir/pooling.log" 2>&1 &
embedder=$!
trap 'kill "$server" "$embedder" 2>/dev/null; wait "$server" "$embedder" 2>/dev/null || true' EXIT

check() { "$dir/venv/bin/python" "$root/scripts/check_vllm.py" "$@"; }
echo "check-vllm: waiting for vLLM on the ports $port and $pooling (logs: $dir/serve.log, $dir/pooling.log)" >&2
for one in "$port $server serve" "$pooling $embedder pooling"; do
  read -r at pid log <<<"$one"
  if ! check ready "http://127.0.0.1:$at" "$pid"; then
    tail -n 20 "$dir/$log.log" >&2
    exit 1
  fi
done
check check "http://127.0.0.1:$port" "http://127.0.0.1:$pooling" "$bin" "$dir/model"
