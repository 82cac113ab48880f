# What scripts/sweep.sh and scripts/ab.sh have in common. They source it with `self`, their own file, and `root`, the project.

say() { printf '%s: %s\n' "$(basename "$self" .sh)" "$*" >&2; }
die() { say "$2"; exit "$1"; }
help() { # the comment at the head of the script
  local line
  while read -r line && [ -n "${line##[!#]*}" ]; do
    case $line in '#!'*) ;; '# '*) printf '%s\n' "${line#\# }" ;; *) printf '\n' ;; esac
  done <"$self"
}

programs() { # sets bin: a folder with the programs, which are built first without VB_BIN
  bin=${VB_BIN:-$root/target/release}
  [ -n "${VB_BIN:-}" ] || cargo build --release --locked --quiet --manifest-path "$root/Cargo.toml" || die 4 "the build failed"
}

new_folder() { # path before the time; sets stamp and folder
  stamp=$(date +%Y%m%d_%H%M%S)
  while [ -e "$1_$stamp" ]; do # another one may have begun in this second
    sleep 0.1
    stamp=$(date +%Y%m%d_%H%M%S)
  done
  folder=$1_$stamp
}

# Simulated servers, each in a process group of its own, so that Ctrl-C lets them serve what is still in flight.
sims=()
finish() { [ ${#sims[@]} -eq 0 ] || kill "${sims[@]}" 2>/dev/null; }
stopped=false
catch_signals() { # from now on a signal is noted in `stopped`, for a script that ends what it is at
  trap finish EXIT
  trap 'stopped=true' INT TERM
}
start_sim() { # file for its URL, flags of vb-sim; sets sim_url
  local file=$1
  shift
  # That of one that was killed would be read before the new one is written.
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
