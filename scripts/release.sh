#!/usr/bin/env bash
# Makes a release for Linux: one static file, as tar.gz and as a Python wheel. It publishes nothing.
#
#   scripts/release.sh [--target TARGET] [--out DIR] [--binary FILE]
#
#   --target TARGET  x86_64-unknown-linux-musl or aarch64-unknown-linux-musl (default: for this machine's processor)
#   --out DIR        where to write (default: target/release-files)
#   --binary FILE    package this file instead of building it
#
# The tar.gz has the program with a link for each tool, man pages, completions, the licences of all dependencies and a list of them
# (CycloneDX). SHA256SUMS has the checksums. Another machine's file is built with Debian's gcc-aarch64-linux-gnu, or what
# CC_aarch64_unknown_linux_musl names, and its man pages are written under qemu-user.
# The same commit and compiler give the same bytes: times come from SOURCE_DATE_EPOCH, by default the commit's.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # follow symbolic links to the script
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
here=$(uname -m)
target=$here-unknown-linux-musl out=$root/target/release-files binary=''
while [ $# -gt 0 ]; do
  case $1 in
    --target | --out | --binary) [ $# -gt 1 ] || die 2 "$1 needs a value"; printf -v "${1#--}" %s "$2"; shift ;;
    -h | --help) help; exit 0 ;;
    *) die 2 "unknown argument $1; see scripts/release.sh --help" ;;
  esac
  shift
done
machine=${target%%-*}
case $target in x86_64-unknown-linux-musl | aarch64-unknown-linux-musl) ;; *) die 2 "no release for $target: see scripts/release.sh --help" ;; esac

# A tarball has no commit: then the environment may name it.
: "${VB_COMMIT:=$(git -C "$root" rev-parse --short=12 HEAD 2>/dev/null || true)}"
: "${SOURCE_DATE_EPOCH:=$(git -C "$root" log -1 --format=%ct 2>/dev/null || echo 0)}"
export VB_COMMIT SOURCE_DATE_EPOCH

check_rust
python3 -c 'import tomllib' 2>/dev/null || die 4 'a release is packed with Python 3.11 or later'
# The program writes its man pages.
runner=''
if [ "$machine" != "$here" ]; then
  runner=$(command -v "qemu-$machine-static" || command -v "qemu-$machine") ||
    die 4 "to write the man pages, the program for $machine runs under qemu: install qemu-user-static"
fi

if [ -z "$binary" ]; then
  libraries=$(rustc --print target-libdir --target "$target")
  [ -d "$libraries" ] || die 4 "the standard library for $target is missing: rustup target add $target"
  # The C in a dependency.
  compiler=CC_${target//-/_}
  if [ "$machine" = "$here" ]; then c=musl-gcc package=musl-tools; else c=$machine-linux-gnu-gcc package=gcc-${machine/_/-}-linux-gnu; fi
  printf -v "$compiler" %s "${!compiler:-$c}"
  export "${compiler?}"
  command -v "${!compiler}" >/dev/null || die 4 "there is no ${!compiler}: install $package, or name a C compiler in $compiler"
  # Paths of this machine would be in the messages of panics.
  flags=(-C target-feature=+crt-static "--remap-path-prefix=$root=." "--remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo")
  if [ "$machine" != "$here" ]; then
    flags+=(-C linker=rust-lld) # it comes with Rust, and links for every processor
  elif [ "$machine" = x86_64 ]; then
    flags+=(-C link-arg=-Wl,-z,pack-relative-relocs) # a megabyte less
  fi
  say "building for $target"
  CARGO_ENCODED_RUSTFLAGS=$(IFS=$'\x1f' && printf %s "${flags[*]}") \
    cargo build --locked --profile dist --bin vb --target "$target" --manifest-path "$root/Cargo.toml" || die 4 "the build failed"
  binary=${CARGO_TARGET_DIR:-$root/target}/$target/dist/vb
fi
python3 "$root/scripts/package.py" --binary "$binary" --root "$root" --out "$out" --target "$target" --runner "$runner"
