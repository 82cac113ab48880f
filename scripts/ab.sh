#!/usr/bin/env bash
# Compares two servers: rounds of the same requests against A and B in alternation, so that drift affects both, then vb-diff
# over all rounds.
#
#   scripts/ab.sh URL_A URL_B [--rounds N] [--gen FLAGS] [--fire FLAGS] [--diff FLAGS] [--config FILE]
#                             [--dry-run] [--new] [--results DIR]
#
#   --rounds N     number of rounds (default: 4); each has new prompts, which both servers get, and A is first in every other one
#   --gen FLAGS    flags for vb-gen, as '--input-len 512 --output-len 128 --num-prompts 300'
#   --fire FLAGS   flags for vb-fire, as '--max-concurrency 32'
#   --diff FLAGS   flags for vb-diff, as '--margin 2% --format markdown --fail-if "ttft.p99 > +5%"'
#   --config FILE  a config for all three
#   --dry-run      print the commands without running them
#   --new          start in a new folder, even if unfinished rounds of the same command could be resumed
#   --results DIR  where to create the folder of the rounds (default: results, next to scripts/)
#
# A URL may be 'sim', followed by flags of vb-sim: scripts/ab.sh sim 'sim --step-base 12ms'.
# Other users of this machine can see the flags: put keys into OPENAI_API_KEY or the --config.
# To resume rounds that were interrupted (Ctrl-C, a crash, a dead server), run the same command again.
# The exit code is the one of vb-diff. VB_BIN names a folder with the programs; without it
# those in PATH are used, or they are built first.
set -uo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # follow symbolic links to the script
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
results=${VB_HOME:-$root}/results rounds=4 gen='' fire='' diff='' config='' dry=false new=false
urls=()
while [ $# -gt 0 ]; do
  case $1 in
    --rounds | --gen | --fire | --diff | --config | --results)
      [ $# -gt 1 ] || die 2 "$1 needs a value"
      printf -v "${1#--}" %s "$2"
      shift
      ;;
    --dry-run) dry=true ;;
    --new) new=true ;;
    -h | --help) help; exit 0 ;;
    -*) die 2 "unknown flag $1; see scripts/ab.sh --help" ;;
    *) urls+=("$1") ;;
  esac
  shift
done
[ ${#urls[@]} -eq 2 ] || die 2 'expected two servers: scripts/ab.sh URL_A URL_B; see scripts/ab.sh --help'
[[ $rounds =~ ^[1-9][0-9]*$ ]] || die 2 "--rounds $rounds: use a number of 1 or more"

split_words gen_args "$gen"
split_words fire_args "$fire"
split_words diff_args "$diff"
with_config=()
[ -z "$config" ] || with_config=(--config "$config")

find_programs

# The folder: the newest one of the same command without a result, or a new one. The flags and the config may hold keys, so only
# their checksum stays with the results.
settings=$({ printf '%s\n' "${urls[@]}" "$rounds" "$gen" "$fire" "$config" && [ -z "$config" ] || cat "$config"; } | cksum) ||
  die 4 "cannot read $config"
folder='' seed=$(date +%s)
if ! $new; then
  for old in "$results"/ab_*/; do
    [ -f "$old/settings" ] && [ "$settings" = "$(<"$old/settings")" ] && [ ! -f "$old/diff.json" ] && folder=${old%/}
  done
fi
if [ -n "$folder" ]; then
  say "resuming $folder (--new starts a new one)"
  read -r seed <"$folder/seed" || die 4 "cannot read $folder/seed"
else
  new_folder "$results/ab"
fi
if ! $dry; then
  lock_folder "$folder"
  printf '%s\n' "$settings" >"$folder/settings" && printf '%s\n' "$seed" >"$folder/seed" ||
    die 4 "cannot write to $folder"
fi

catch_signals
for i in 0 1; do
  case ${urls[i]} in sim | 'sim '*) ;; *) continue ;; esac
  split_words sim_args "${urls[i]#sim}"
  if $dry; then
    printf 'vb-sim'; printf ' %q' --port 0 ${sim_args[@]+"${sim_args[@]}"}; printf ' &\n'
    urls[i]="http://127.0.0.1:PORT_$i"
    continue
  fi
  start_sim "$folder/sim.$i" ${sim_args[@]+"${sim_args[@]}"}
  urls[i]=$sim_url
done

print_command() { printf '%s' "$1"; shift; printf ' %q' "$@"; }
for ((round = 1; round <= rounds; round++)); do
  requests=$folder/round$round.requests.ndjson
  make=(${with_config[@]+"${with_config[@]}"} --base-url "${urls[0]}" ${gen_args[@]+"${gen_args[@]}"} --seed $((seed + round)))
  if $dry; then
    print_command vb-gen "${make[@]}"; printf ' > %q\n' "$requests"
  elif [ ! -f "$requests" ]; then
    "$bin/vb-gen" "${make[@]}" >"$requests.part" </dev/null && mv "$requests.part" "$requests" || die $? "vb-gen failed"
  fi
  order='0 1'
  ((round % 2)) || order='1 0'
  for i in $order; do
    side=$([ "$i" = 0 ] && echo a || echo b)
    outputs=$folder/round$round.$side.outputs.ndjson
    send=(${with_config[@]+"${with_config[@]}"} --base-url "${urls[i]}" ${fire_args[@]+"${fire_args[@]}"})
    if $dry; then
      print_command vb-fire "${send[@]}"; printf ' < %q > %q\n' "$requests" "$outputs"
      continue
    fi
    if [ -f "$outputs" ]; then
      say "round $round/$rounds, $side: already complete"
      continue
    fi
    say "round $round/$rounds, $side"
    "$bin/vb-fire" "${send[@]}" <"$requests" >"$outputs.part"
    code=$?
    # 1: more requests failed than --fail-above allows. vb-diff takes that into account.
    case $code in
      0 | 1)
        any_success "$outputs.part" || $stopped ||
          die 1 "every request of round $round, $side failed: see the message above; run the same command again to resume"
        $stopped || mv "$outputs.part" "$outputs" ;;
      *) die "$code" "stopped in round $round; run the same command again to resume" ;;
    esac
    $stopped && die 130 "stopped in round $round; run the same command again to resume"
  done
done

a=() b=()
for ((round = 1; round <= rounds; round++)); do
  a+=("$folder/round$round.a.outputs.ndjson")
  b+=("$folder/round$round.b.outputs.ndjson")
done
compare=("${a[@]}" --vs "${b[@]}" ${with_config[@]+"${with_config[@]}"} ${diff_args[@]+"${diff_args[@]}"})
if $dry; then
  print_command vb-diff "${compare[@]}"; printf '\n'
  exit 0
fi
"$bin/vb-diff" "${compare[@]}" </dev/null
code=$?
case $code in 0 | 1 | 6) ;; *) die "$code" "vb-diff failed" ;; esac # 1: a rule failed, 6: one is undecided
"$bin/vb-diff" "${compare[@]}" --format json >"$folder/diff.json" </dev/null 2>"$folder/diff.err"
rm -f "$folder/diff.err"
say "the requests and outputs of each round are in $folder"
exit "$code"
