#!/usr/bin/env bash
# Uses what scripts/release.sh made: the tar.gz in an empty root folder, and the wheel in a new venv without network. Needs root for
# the empty folder; without it, that part runs in a user namespace.
#
#   scripts/check-release.sh [DIR]    (default: target/release-files)
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
files=$(cd "${1:-$root/target/release-files}" && pwd)
(cd "$files" && sha256sum --check --quiet SHA256SUMS)
work=$(mktemp -d)
sim=''
trap '[ -z "$sim" ] || kill "$sim" || true; rm -rf "$work"' EXIT

mkdir "$work/root"
tar -C "$work/root" --strip-components 1 -xzf "$files"/vb-*-linux.tar.gz
enter=(chroot)
[ "$(id -u)" = 0 ] || enter=(unshare --user --map-root-user chroot)
inside() { "${enter[@]}" "$work/root" "$@"; }
# `exec`, so that the id is the server's.
(exec "${enter[@]}" "$work/root" /bin/vb-sim --port 0) >"$work/url" &
sim=$!
for _ in $(seq 100); do [ -s "$work/url" ] || sleep 0.1; done
read -r url <"$work/url"
load=(--base-url "$url" --num-prompts 20 --input-len 32 --output-len 8)
inside /bin/vb bench "${load[@]}" --max-concurrency 4 >"$work/result.json"
grep -q '"completed":20' "$work/result.json"
inside /bin/vb-gen --num-prompts 3 | inside /bin/vb-fire --base-url "$url" | inside /bin/vb-stats >"$work/pipe.json"
grep -q '"completed":3' "$work/pipe.json"
inside /bin/vb --version

python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --no-index --quiet --disable-pip-version-check "$files"/vb-*.whl
for tool in gen fire stats agg diff sim selftest; do "$work/venv/bin/vb-$tool" --version; done
PATH=$work/venv/bin:$PATH vb bench "${load[@]}" --seed 2 >"$work/wheel.json"
grep -q '"completed":20' "$work/wheel.json"
echo 'the release works'
