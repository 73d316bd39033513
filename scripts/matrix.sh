#!/usr/bin/env bash
# `make matrix`: the whole leak matrix, about forty minutes, written to docs/leak-matrix.md. Further
# words go to the measurement of the faults: scripts/matrix.sh --only flush-ruleset --locks ours.
# SETUPS names results of set-ups that were measured elsewhere, where this kernel cannot make them.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh
# wg-quick(8) documents its killswitch with it; nothing else here needs it.
type -P iptables >/dev/null || { echo "matrix: iptables is missing: apt-get install iptables" >&2; exit 1; }
cargo build --workspace --bins
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
if [[ $# -gt 0 ]]; then
  exec setpriv --pdeathsig KILL "$target/debug/matrix" "$@"
fi
results=$(mktemp --dry-run)
trap 'rm -f "$results"' EXIT
status=0
# Ours at length; the others leak at once.
"$target/debug/matrix" --results "$results" --locks ours \
  --rate 1000 --before 500 --after 2000 --jobs 2 || status=1
"$target/debug/matrix" --results "$results" --locks none,wg-quick,established \
  --rate 300 --before 50 --after 300 --jobs 3 --page docs/leak-matrix.md || status=1
setups=${SETUPS:-$(mktemp --dry-run)}
trap 'rm -f "$results"; [[ -n ${SETUPS:-} ]] || rm -f "$setups"' EXIT
"$target/debug/setups" --results "$setups" --jobs 3 --page docs/leak-matrix.md || status=1
exit "$status"
