#!/usr/bin/env bash
# `make truth`: the truth table with the intervals as shipped, about ten minutes, written to
# docs/truth-table.md. Further words go to the measurement: scripts/truth.sh --only saturated.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh
cargo build --workspace --bins
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
if [[ $# -gt 0 ]]; then
  exec setpriv --pdeathsig KILL "$target/debug/truth" "$@"
fi
exec setpriv --pdeathsig KILL "$target/debug/truth" --intervals shipped --page docs/truth-table.md
