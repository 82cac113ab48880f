#!/usr/bin/env bash
# Checks vb-fire against real servers and proxies on a CPU: no GPU, no model download.
#
#   scripts/check-servers.sh [NAME...]     installs the servers if needed (two minutes, 2 GB), starts them with a tiny model, runs the
#                                          checks of scripts/check_servers.py, prints their table. NAMEs select servers: llama,
#                                          llama-embed, llama-rerank, dynamo, triton, router, litellm, nginx
#
# VB_SERVERS_DIR is the folder for the servers (default ~/.cache/vb/servers); existing installations are reused. A server that cannot be
# installed fails its check. VB_BIN names a folder with our programs; without it they are built first. Needs python3 with venv and pip,
# and openssl.
set -euo pipefail

self=${BASH_SOURCE[0]}
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
case ${1:-} in -h | --help) help; exit 0 ;; esac

servers=${VB_SERVERS_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/vb/servers}
# The check names the servers that are missing.
"$root/scripts/install-servers.sh" "$servers" || true
find_programs
exec python3 "$root/scripts/check_servers.py" "$servers" "$bin" "$@"
