#!/usr/bin/env bash
# Makes a release for Linux on this machine's processor: one static file, as tar.gz and as a Python wheel. It publishes nothing.
#
#   scripts/release.sh [--out DIR] [--binary FILE]
#
#   --out DIR      where to write (default: target/release-files)
#   --binary FILE  package this file instead of building it
#
# The tar.gz has the program with a link for each tool, man pages, completions, the licences of all dependencies and a list of them
# (CycloneDX). SHA256SUMS has the checksums. The file is linked with musl if that target is installed
# (`rustup target add x86_64-unknown-linux-musl`, and Debian's musl-tools), else statically with glibc.
# The same commit gives the same bytes: times come from SOURCE_DATE_EPOCH, by default the commit's.
set -euo pipefail

self=${BASH_SOURCE[0]}
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
out=$root/target/release-files binary=''
while [ $# -gt 0 ]; do
  case $1 in
    --out | --binary) [ $# -gt 1 ] || die 2 "$1 needs a value"; printf -v "${1#--}" %s "$2"; shift ;;
    -h | --help) help; exit 0 ;;
    *) die 2 "unknown argument $1; see scripts/release.sh --help" ;;
  esac
  shift
done

machine=$(uname -m)
# A tarball has no commit: then the environment may name it.
: "${VB_COMMIT:=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || true)}"
: "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}"
export VB_COMMIT SOURCE_DATE_EPOCH

if [ -z "$binary" ]; then
  check_rust
  target=$machine-unknown-linux-musl
  libraries=$(rustc --print target-libdir --target "$target" 2>/dev/null || true)
  [ -d "$libraries" ] && command -v musl-gcc >/dev/null || target=$machine-unknown-linux-gnu
  say "building for $target"
  # Paths of this machine would be in the messages of panics.
  flags="-C target-feature=+crt-static --remap-path-prefix=$root=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
  RUSTFLAGS=$flags cargo build --locked --profile dist --bin vb --target "$target" --manifest-path "$root/Cargo.toml" ||
    die 4 "the build failed"
  binary=$root/target/$target/dist/vb
fi
python3 "$root/scripts/package.py" --binary "$binary" --root "$root" --out "$out" --machine "$machine"
