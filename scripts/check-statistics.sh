#!/usr/bin/env bash
# Checks the guarantees of vb-diff and the verdicts of vb-stats in more simulations than the tests run, in a release build:
# equal servers are reported as different in at most 5 % of comparisons, also with varying repeats; intervals of a change contain
# the truth; and a change as large as the margin is found in 80 % of comparisons with the suggested number of requests. The verdict on a run
# (steady, overloaded, …) is right as often as docs/METRICS.md says: it prints that table, from a tenth as many runs of each kind.
# Before that, it counts how often the intervals of vb-stats contain the truth, in runs of models of queues, and prints that table too.
#
#   scripts/check-statistics.sh [TRIALS]   comparisons of each kind (default: 1000); 400 runs of each model
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VB_TRIALS=400 cargo test --release --locked --quiet --lib intervals_contain_the_truth -- --nocapture
VB_TRIALS=${1:-1000} cargo test --release --locked --quiet --lib -- diff::proof steadiness::proof --nocapture
