#!/usr/bin/env bash
# `make matrix`: the whole leak matrix, about ten minutes, written to docs/leak-matrix.md. Further
# words go to the measurement: scripts/matrix.sh --only flush-ruleset --locks ours.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh
cargo build --workspace --bins
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
words=("$@")
if [[ ${#words[@]} == 0 ]]; then
  words=(--locks "ours,none,wg-quick,established" --page docs/leak-matrix.md)
  words+=(--rate 1000 --before 500 --after 2500 --jobs 2)
fi
exec setpriv --pdeathsig KILL "$target/debug/matrix" "${words[@]}"
