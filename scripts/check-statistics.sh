#!/usr/bin/env bash
# Counts what vb-diff promises, in more simulated comparisons than the tests make, in a release build:
# equals are called different in at most 5 % of comparisons, repeats that vary too; intervals of a change hold the truth; and a
# change of the margin is found in 80 % with as many requests as it said.
#
#   scripts/check-statistics.sh [TRIALS]   comparisons of each kind (default: 1000)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VB_TRIALS=${1:-1000} cargo test --release --locked --quiet --lib diff::proof -- --nocapture
