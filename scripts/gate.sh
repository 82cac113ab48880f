#!/usr/bin/env bash
# The gate of action.yml: loads a server and exits with 1 if a rule is broken. The report goes to standard output, and to the
# summary of the job. Needs `vb` in PATH.
#
#   GATE_URL           the server
#   GATE_BASELINE_URL  the server to compare with; empty: the rules are about GATE_URL alone
#   GATE_GEN           flags of vb-gen
#   GATE_FIRE          flags of vb-fire
#   GATE_ROUNDS        rounds of a comparison
#   GATE_FAIL_IF       rules, one per line
set -uo pipefail

summary=${GITHUB_STEP_SUMMARY:-/dev/null}
rules=() quoted=''
while IFS= read -r rule; do
  [ -n "${rule// /}" ] || continue
  rules+=(--fail-if "$rule")
  quoted+=" --fail-if '${rule//\'/}'"
done <<<"${GATE_FAIL_IF:-}"
[ ${#rules[@]} -gt 0 ] || { echo 'gate: GATE_FAIL_IF has no rule' >&2; exit 2; }

if [ -n "${GATE_BASELINE_URL:-}" ]; then
  vb ab "$GATE_BASELINE_URL" "$GATE_URL" --rounds "${GATE_ROUNDS:-4}" --gen "${GATE_GEN:-}" --fire "${GATE_FIRE:-}" \
    --diff "--format markdown$quoted" --new | tee -a "$summary"
  exit "${PIPESTATUS[0]}"
fi
read -ra gen <<<"${GATE_GEN:-}"
read -ra fire <<<"${GATE_FIRE:-}"
{
  echo '```'
  vb gen --base-url "$GATE_URL" ${gen[@]+"${gen[@]}"} | vb fire --base-url "$GATE_URL" ${fire[@]+"${fire[@]}"} |
    vb stats "${rules[@]}" --table short 2>&1 >result.json
  codes=("${PIPESTATUS[@]}")
  echo '```'
  for code in "${codes[@]}"; do [ "$code" = 0 ] || exit "$code"; done
} | tee -a "$summary"
exit "${PIPESTATUS[0]}"
