# shellcheck shell=bash disable=SC2034,SC2154
# Functions that the scripts share. Set `self` to the script and `root` to the project, then source this.

say() { # control characters of a config could act on the terminal
  local text=$*
  printf '%s: %s\n' "$(basename "$self" .sh)" "${text//[[:cntrl:]]/?}" >&2
}
die() { say "$2"; exit "$1"; }
help() { # prints the comment at the top of the script
  local line
  while read -r line && [ -n "${line##[!#]*}" ]; do
    case $line in '#!'*) ;; '# '*) printf '%s\n' "${line#\# }" ;; *) printf '\n' ;; esac
  done <"$self"
}

# The programs: those in VB_BIN, else the installed ones, else the project's, which are built first.
find_programs() { # sets bin to their folder
  bin=${VB_BIN:-}
  [ -z "$bin" ] || return 0
  local found program
  if found=$(command -v vb-gen) && bin=$(dirname "$found"); then
    for program in fire stats diff agg sim; do
      [ -x "$bin/vb-$program" ] || bin=''
    done
    [ -z "$bin" ] || return 0
  fi
  # The one file of a release, without its links.
  if found=$(command -v vb) && [[ $("$found" gen --version 2>/dev/null) = vb-gen\ * ]]; then
    found=$(cd "$(dirname "$found")" && pwd)/vb
    bin=$root/target/links
    mkdir -p "$bin" || die 4 "cannot write to $bin"
    for program in gen fire stats diff agg sim; do
      ln -sf "$found" "$bin/vb-$program" || die 4 "cannot write to $bin"
    done
    return 0
  fi
  bin=$root/target/release
  check_rust
  local quiet=(--quiet)
  [ ! -t 2 ] && [ -z "${CI:-}" ] || quiet=() # a first build takes minutes
  cargo build --release --locked ${quiet[@]+"${quiet[@]}"} --manifest-path "$root/Cargo.toml" || die 4 "the build failed"
}
check_rust() { # a compiler that is too old fails with an error about something else
  local needs has tool
  needs=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
  local cure="install Rust from https://rustup.rs, or update it with \`rustup update\`, or put the programs of a release into PATH"
  for tool in cargo "${RUSTC:-rustc}"; do
    command -v "$tool" >/dev/null || die 4 "the programs are built with Rust $needs or later, and there is no $tool: $cure"
    # rustup has the command, but possibly no compiler.
    has=$("$tool" --version 2>&1) || die 4 "the programs are built with Rust $needs or later, and $tool does not run ($has): $cure"
    [[ $has =~ ^[a-z]+\ ([0-9.]+) ]] && has=${BASH_REMATCH[1]}
    [ "$(printf '%s\n' "$needs" "$has" | sort -V | head -n 1)" = "$needs" ] ||
      die 4 "the programs are built with Rust $needs or later, and $tool is $has: $cure"
  done
}

# Splits a text of flags into words, with the quotes of a shell but without expansion and commands.
split_words() { # name of the array, text
  local lines
  lines=$(xargs -n 1 printf '%s\n' <<<"$2") || die 2 "the quotes of \`$2\` do not match"
  # Not `local -n`, which macOS's bash lacks. `read` ends with 1, because there is no zero byte at the end.
  IFS=$'\n' read -r -d '' -a "$1" <<<"$lines" || true
}

any_success() { grep -q '"success":true' "$1"; } # whether any request of these outputs succeeded

new_folder() { # path without the time; sets stamp and folder, and makes the folder unless this is a dry run
  $dry || mkdir -p "$(dirname "$1")" || die 4 "cannot write to $(dirname "$1")"
  while :; do
    stamp=$(date +%Y%m%d_%H%M%S)
    folder=$1_$stamp
    if $dry; then
      [ -e "$folder" ] || return 0
    else
      mkdir "$folder" 2>/dev/null && return
      [ -e "$folder" ] || die 4 "cannot write to $folder"
    fi
    sleep 0.1 # another one started in the same second
  done
}

# The kernel holds the lock as long as any process has the file open: this script, and every program that it started. So a
# folder stays locked after a `kill -9` of the script, until the last of its programs has ended.
lock_folder() { # path
  { exec 9>>"$1/.lock"; } 2>/dev/null || die 4 "cannot write to $1"
  local try
  for try in 1 2 3 4; do
    take_lock && return
    [ "$try" != 1 ] || say "waiting for another $(basename "$self") to leave $1"
    sleep 0.5
  done
  die 4 "another $(basename "$self") still works in $1: wait for its end, or start a new folder with --new"
}
take_lock() { # macOS has no flock, and perl everywhere
  if command -v flock >/dev/null; then
    flock -n 9
  else
    perl -e 'use Fcntl ":flock"; open my $lock, ">>&=", 9 or exit 1; exit !flock $lock, LOCK_EX | LOCK_NB'
  fi
}

# The programs end with the script, even if it is killed.
export VB_END_WITH=$$

# Simulated servers, each in a separate process group, so that on Ctrl-C they still serve the requests in flight.
sims=()
finish() {
  [ ${#sims[@]} -eq 0 ] || kill "${sims[@]}" 2>/dev/null
  wait # their end unlocks the folder
}
stopped=false
catch_signals() { # lets a signal only set `stopped`, so that the script finishes the current step
  trap finish EXIT
  trap 'stopped=true' INT TERM
}
start_sim() { # file for the URL, flags of vb-sim; sets sim_url
  local file=$1
  shift
  # A file left by a killed server would be read before the new one is written.
  rm -f "$file"
  set -m
  "$bin/vb-sim" --port 0 "$@" >"$file" &
  sims+=($!)
  set +m
  until [ -s "$file" ]; do
    kill -0 $! 2>/dev/null || die 4 "vb-sim did not start"
    sleep 0.05
  done
  read -r sim_url <"$file"
  rm -f "$file"
}
