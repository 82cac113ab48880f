#!/usr/bin/env bash
# Uses what scripts/release.sh made: the tar.gz in an empty root folder, and the wheel in a new venv without network, both without
# Rust and without this project. Needs root for the empty folder; without it, that part runs in a user namespace.
#
#   scripts/check-release.sh [--dynamic] [DIR]    (default: target/release-files)
#
#   --dynamic  the program may need shared libraries, which are copied into the empty folder
#
# A program for another processor runs under qemu-user, one tool at a time: starting others needs a kernel that knows qemu.
# With buildah, the image of Containerfile is built and used too, with this machine's certificates.
set -euo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # follow symbolic links to the script
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
files=$root/target/release-files dynamic=false
while [ $# -gt 0 ]; do
  case $1 in
    --dynamic) dynamic=true ;;
    -h | --help) help; exit 0 ;;
    -*) die 2 "unknown flag $1; see scripts/check-release.sh --help" ;;
    *) files=$1 ;;
  esac
  shift
done
files=$(cd "$files" && pwd) || die 4 "no folder $files: run scripts/release.sh"
(cd "$files" && sha256sum --check --quiet SHA256SUMS)
work=$(mktemp -d)
sim='' url=''
trap '[ -z "$sim" ] || kill "$sim" || true; rm -rf "$work"' EXIT
enter=(chroot)
[ "$(id -u)" = 0 ] || enter=(unshare --user --map-root-user chroot)
tools=(gen fire stats agg diff sim selftest)
load=(--num-prompts 20 --input-len 32 --output-len 8)

completed() { # number, result
  grep -q "\"completed\":$1[,}]" "$2" || die 1 "$2 has not $1 completed requests"
}

serve() { # command of vb-sim; sets url
  rm -f "$work/url"
  # `exec`, so that the id is the server's.
  (exec "$@" --port 0) >"$work/url" &
  sim=$!
  for _ in $(seq 100); do [ -s "$work/url" ] || sleep 0.1; done
  read -r url <"$work/url" || die 1 'vb-sim did not start'
}
end_server() {
  kill "$sim"
  sim=''
}

check_archive() { # file, qemu
  local place=$work/root archive=$1 emulator=${2:-} run=()
  rm -rf "$place"
  mkdir "$place"
  tar -C "$place" --strip-components 1 -xzf "$archive"
  if [ -n "$emulator" ]; then
    cp "$emulator" "$place/qemu"
    run=(/qemu)
  elif ldd "$place/bin/vb" >"$work/libraries" 2>/dev/null && ! grep -q 'statically linked' "$work/libraries"; then
    $dynamic || die 1 "$archive: the program needs shared libraries"
    grep -o '/[^ ]*' "$work/libraries" | xargs -I '{}' cp --parents -L '{}' "$place"
  fi
  inside() { "${enter[@]}" "$place" ${run[@]+"${run[@]}"} "$@"; }
  serve "${enter[@]}" "$place" ${run[@]+"${run[@]}"} /bin/vb-sim
  inside /bin/vb --version
  inside /bin/vb-gen "${load[@]}" | inside /bin/vb-fire --base-url "$url" --max-concurrency 4 | inside /bin/vb-stats >"$work/pipe.json"
  completed 20 "$work/pipe.json"
  if [ -z "$emulator" ]; then
    inside /bin/vb bench --base-url "$url" "${load[@]}" --seed 2 --max-concurrency 4 >"$work/bench.json" 2>"$work/bench.err" ||
      die 1 "vb bench: $(<"$work/bench.err")"
    completed 20 "$work/bench.json"
    check_scripts "$place/bin"
  fi
  end_server
}

check_scripts() { # folder with the programs
  local home=$work/home
  rm -rf "$home"
  mkdir "$home"
  printf '%s\n' 'model: tiny' 'base_url: sim' 'tokenizer: builtin' 'input_output: [[16, 4]]' 'concurrency_prompts: [[2, 6]]' >"$home/config.yaml"
  # No cargo, and none of the variables that lead to this project.
  without_rust() { (cd "$home" && env -i HOME="$home" PATH="$1:/usr/bin:/bin" "${@:2}"); }
  without_rust "$1" vb sweep >"$home/sweep.txt" 2>&1 || die 1 "vb sweep: $(<"$home/sweep.txt")"
  compgen -G "$home/results/tiny_*/aggregate_results_*.csv" >/dev/null || die 1 "vb sweep wrote no table"
  local code=0
  without_rust "$1" vb ab sim sim --rounds 1 --gen '--num-prompts 6 --input-len 8 --output-len 4' >"$home/ab.txt" 2>&1 || code=$?
  if [ "$code" != 0 ] || ! compgen -G "$home/results/ab_*/diff.json" >/dev/null; then die 1 "vb ab: $(<"$home/ab.txt")"; fi
}

check_wheel() { # folder for the venv
  local tool
  rm -rf "$1"
  python3 -m venv "$1"
  "$1/bin/pip" install --no-index --quiet --disable-pip-version-check "$files"/vb-*"$here".whl
  for tool in "${tools[@]}"; do "$1/bin/vb-$tool" --version >/dev/null || die 1 "vb-$tool of the wheel"; done
  "$1/bin/vb" --version
  # As pipx and `uv tool` do it.
  mkdir "$1/links"
  ln -s "$1/bin/vb-gen" "$1/links/"
  "$1/links/vb-gen" --num-prompts 1 --input-len 4 >/dev/null || die 1 'a link to vb-gen of the wheel'
  check_scripts "$1/bin"
  ! command -v uvx >/dev/null || uvx --offline --no-index --from "$(echo "$files"/vb-*"$here".whl)" vb --version
}

check_image() { # file
  local context=$work/image name container buildah
  name=$(basename "$1" .tar.gz)
  buildah=(buildah --root "$work/store" --runroot "$work/run" --storage-driver vfs)
  mkdir -p "$context/certificates/etc/ssl/certs"
  tar -C "$context" -xzf "$1"
  cp -L /etc/ssl/certs/ca-certificates.crt "$context/certificates/etc/ssl/certs/"
  "${buildah[@]}" build --quiet --build-context "certificates=$context/certificates" --build-arg "FILES=$name" --tag vb \
    --file "$root/Containerfile" "$context" >/dev/null
  [ "$("${buildah[@]}" inspect --type image --format '{{.OCIv1.Config.User}}' vb)" = 65534:65534 ] || die 1 'the image runs as root'
  container=$("${buildah[@]}" from vb)
  serve "$context/$name/bin/vb-sim"
  "${buildah[@]}" run --isolation chroot --network host "$container" -- /usr/bin/vb bench --base-url "$url" "${load[@]}" \
    >"$work/image.json" 2>"$work/image.err" || die 1 "the image: $(<"$work/image.err")"
  completed 20 "$work/image.json"
  "${buildah[@]}" rm "$container" >/dev/null
  end_server
}

here=$(uname -m)
for archive in "$files"/vb-*-linux.tar.gz; do
  machine=${archive%-linux.tar.gz}
  machine=${machine##*-}
  emulator=''
  [ "$machine" = "$here" ] || emulator=$(command -v "qemu-$machine-static") || {
    say "$machine: not used, because there is no qemu-$machine-static here (Debian's qemu-user-static)"
    continue
  }
  if ! "${enter[@]}" / true 2>/dev/null; then
    # A release is for others: then this is an error.
    $dynamic || die 4 'this machine allows no chroot: run it as root'
    say "$machine: the tar.gz is not used, because this machine allows no chroot"
    continue
  fi
  check_archive "$archive" "$emulator"
  say "$machine: the tar.gz works"
  if [ -z "$emulator" ] && ! $dynamic && command -v buildah >/dev/null; then
    check_image "$archive"
    say "$machine: the image works"
  fi
done
if compgen -G "$files/vb-*$here.whl" >/dev/null; then
  check_wheel "$work/venv"
  say "$here: the wheel works"
fi
