#!/usr/bin/env bash
# Checks the guarantees of vb-diff in more simulated comparisons than the tests run, in a release build:
# equal servers are reported as different in at most 5 % of comparisons, also with varying repeats; intervals of a change contain
# the truth; and a change as large as the margin is found in 80 % of comparisons with the suggested number of requests.
#
#   scripts/check-statistics.sh [TRIALS]   comparisons of each kind (default: 1000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VB_TRIALS=${1:-1000} cargo test --release --locked --quiet --lib diff::proof -- --nocapture
