#!/usr/bin/env bash
# The gate of action.yml: loads a server and exits with 1 if a rule is broken. The report goes to standard output, and to the
# summary of the job. The programs are those in PATH, or they are built first.
#
#   GATE_URL           the server
#   GATE_BASELINE_URL  the server to compare with; empty: the rules are about GATE_URL alone
#   GATE_GEN           flags of vb-gen, with the quotes of a shell
#   GATE_FIRE          flags of vb-fire
#   GATE_DIFF          flags of vb-diff
#   GATE_ROUNDS        rounds of a comparison
#   GATE_FAIL_IF       rules, one per line
set -uo pipefail

self=${BASH_SOURCE[0]}
while [ -L "$self" ]; do # follow symbolic links to the script
  link=$(readlink "$self")
  case $link in /*) self=$link ;; *) self=$(dirname "$self")/$link ;; esac
done
root=$(cd "$(dirname "$self")/.." && pwd)
. "$root/scripts/base.sh"
case ${1:-} in
  '') ;;
  -h | --help) help; exit 0 ;;
  *) die 2 "unknown argument $1; see scripts/gate.sh --help" ;;
esac

rules=() quoted=''
while IFS= read -r rule; do
  [ -n "${rule//[[:space:]]/}" ] || continue
  rules+=(--fail-if "$rule")
  quoted+=" --fail-if '${rule//\'/}'"
done <<<"${GATE_FAIL_IF:-}"
[ ${#rules[@]} -gt 0 ] || die 2 'GATE_FAIL_IF has no rule'
[ -n "${GATE_URL:-}" ] || die 2 'GATE_URL names no server'
split_words gen_args "${GATE_GEN:-}"
split_words fire_args "${GATE_FIRE:-}"
find_programs

# Messages of a server are printed, and a runner would obey a line with a command for it.
if [ -n "${GITHUB_ACTIONS:-}" ]; then
  token=$(od -An -N 16 -t x1 /dev/urandom | tr -d ' \n')
  echo "::stop-commands::$token"
  trap 'echo "::$token::"' EXIT
fi

compare() {
  VB_BIN=$bin "$root/scripts/ab.sh" "$GATE_BASELINE_URL" "$GATE_URL" --rounds "${GATE_ROUNDS:-4}" --results results --new \
    --gen "${GATE_GEN:-}" --fire "${GATE_FIRE:-}" --diff "--format markdown ${GATE_DIFF:-}$quoted"
}
measure() { # the exit code of the first program of the pipe that failed, but 2 for a wrong flag: others fail because of it
  local code codes
  echo '```'
  "$bin/vb-gen" --base-url "$GATE_URL" ${gen_args[@]+"${gen_args[@]}"} |
    "$bin/vb-fire" --base-url "$GATE_URL" ${fire_args[@]+"${fire_args[@]}"} |
    "$bin/vb-stats" "${rules[@]}" --table short 2>&1 >result.json
  codes=("${PIPESTATUS[@]}")
  echo '```'
  case " ${codes[*]} " in *' 2 '*) return 2 ;; esac
  for code in "${codes[@]}"; do [ "$code" = 0 ] || return "$code"; done
}
if [ -n "${GATE_BASELINE_URL:-}" ]; then job=compare; else job=measure; fi
"$job" | tee -a "${GITHUB_STEP_SUMMARY:-/dev/null}"
exit "${PIPESTATUS[0]}"
