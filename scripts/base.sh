# Functions that scripts/sweep.sh and scripts/ab.sh share. Set `self` to the script and `root` to the project, then source this.

say() { printf '%s: %s\n' "$(basename "$self" .sh)" "$*" >&2; }
die() { say "$2"; exit "$1"; }
help() { # prints the comment at the top of the script
  local line
  while read -r line && [ -n "${line##[!#]*}" ]; do
    case $line in '#!'*) ;; '# '*) printf '%s\n' "${line#\# }" ;; *) printf '\n' ;; esac
  done <"$self"
}

find_programs() { # sets bin to the folder of the programs; builds them unless VB_BIN is set
  bin=${VB_BIN:-$root/target/release}
  [ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" || die 4 "the build failed"
}

any_success() { grep -q '"success":true' "$1"; } # whether any request of these outputs succeeded

new_folder() { # path without the time; sets stamp and folder
  stamp=$(date +%Y%m%d_%H%M%S)
  while [ -e "$1_$stamp" ]; do # another one may have started in the same second
    sleep 0.1
    stamp=$(date +%Y%m%d_%H%M%S)
  done
  folder=$1_$stamp
}

# Simulated servers, each in a separate process group, so that on Ctrl-C they still serve the requests in flight.
sims=()
finish() { [ ${#sims[@]} -eq 0 ] || kill "${sims[@]}" 2>/dev/null; }
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
