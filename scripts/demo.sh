#!/usr/bin/env bash
# `make demo`: sets up, builds, runs. KEEP=1 leaves it running at the end.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh
cargo build --workspace --bins
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
keep=()
case ${KEEP:-} in '' | 0 | no) ;; *) keep=(--keep) ;; esac
# It ends with make, however make ends.
exec setpriv --pdeathsig KILL "$target/debug/lab" demo "${keep[@]}"
