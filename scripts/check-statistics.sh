#!/usr/bin/env bash
# Counts what docs/METRICS.md promises in more simulated runs than the tests make, in a release build, and prints its tables: how often the
# intervals of vb-stats contain the truth; how often its verdict on a run (steady, overloaded, …) is right; how often vb-diff calls equal
# servers different, and finds a change with as many requests as it asks for.
#
#   scripts/check-statistics.sh [RUNS]   runs of each kind (default: 400)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

VB_TRIALS=${1:-400} cargo test --release --locked --quiet --test proof -- --nocapture
