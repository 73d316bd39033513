#!/usr/bin/env bash
# `make bench`: failover, hard stop and switch, measured in the lab with the programs as released.
# Further words go to the measurement: scripts/bench.sh --rounds 3 --only switch.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh
cargo build --release --workspace --bins
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
exec setpriv --pdeathsig KILL "$target/release/figures" "$@"
