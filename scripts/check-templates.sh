#!/usr/bin/env bash
# Compares the chat templates as vb-gen applies them with Hugging Face transformers: the templates in tests/data/templates, and
# the templates of the given model folders. Prints a table; exit code 1 if a text differs.
#
#   scripts/check-templates.sh [--update] [FOLDER...]
#
# FOLDER contains a tokenizer_config.json and a tokenizer.json. --update rewrites tests/data/templates/golden.json from the output
# of transformers. PYTHON is a Python with transformers (default: the Python of VENV, which scripts/install-vllm.sh creates);
# VB_GEN is the vb-gen to check (default: target/release/vb-gen, built if missing).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

python=${PYTHON:-${VENV:+$VENV/bin/python}}
python=${python:-python3}
if ! "$python" -c 'import transformers, jinja2' 2>/dev/null; then
    echo "check-templates: $python has no transformers: set PYTHON=... or VENV=..." >&2
    exit 2
fi
if [ -z "${VB_GEN:-}" ]; then
    VB_GEN=target/release/vb-gen
    [ -x "$VB_GEN" ] || cargo build --quiet --release --bin vb-gen
fi
exec "$python" scripts/check_templates.py --vb-gen "$VB_GEN" "$@"
