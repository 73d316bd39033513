#!/usr/bin/env bash
# `make lint`: the format, and clippy without a warning.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

cargo fmt --all --check
cargo clippy --workspace --all-targets -- -D warnings
