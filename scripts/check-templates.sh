#!/usr/bin/env bash
# Holds the chat templates as vb-gen applies them against Hugging Face transformers: the real ones in tests/data/templates, and
# those of any model folders that are given. Prints a table; exit code 1 if a text differs.
#
#   scripts/check-templates.sh [--update] [FOLDER...]
#
# FOLDER holds a tokenizer_config.json and a tokenizer.json. --update writes tests/data/templates/golden.json anew from what
# transformers says. PYTHON is a Python that has transformers (by default the one of VENV, which scripts/install-vllm.sh makes);
# VB_GEN is the vb-gen to check (by default target/release/vb-gen, built if it is not there).
set -euo pipefail
cd "$(dirname "$(readlink -f "$0")")/.."

python=${PYTHON:-${VENV:+$VENV/bin/python}}
python=${python:-python3}
if ! "$python" -c 'import transformers, jinja2' 2>/dev/null; then
    echo "check-templates: $python has no transformers: name one that has, PYTHON=... or VENV=..." >&2
    exit 2
fi
if [ -z "${VB_GEN:-}" ]; then
    VB_GEN=target/release/vb-gen
    [ -x "$VB_GEN" ] || cargo build --quiet --release --bin vb-gen
fi
exec "$python" scripts/check_templates.py --vb-gen "$VB_GEN" "$@"
