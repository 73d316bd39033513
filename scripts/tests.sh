#!/usr/bin/env bash
# Every test of the workspace, as `cargo test --workspace` would run them, but as many at the same
# time as there are processors (`JOBS` says otherwise): most of a world's time is waiting. A test
# of the lab is run by its name, in a process of its own. Says how long each took; what a failed one
# said comes with it.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# They begin first, or the last of them would run by itself.
longest=(truth story ids crash matrix)
# They hold the programs to seconds: one at a time, at the end, when nothing else runs.
alone=(guard)

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# Runs one test, or a program with all of its tests, as cargo does: in the package's directory.
one() {
  local name directory program test said begun took verdict=FAILED
  IFS=$'\t' read -r name directory program test <<<"$1"
  said=$(mktemp -p "$SCRATCH")
  begun=${EPOCHREALTIME/[.,]/}
  if (cd "$directory" && CARGO_MANIFEST_DIR=$directory "$program" ${test:+--exact "$test"}) \
    >"$said" 2>&1 </dev/null; then verdict=ok; fi
  took=$(((${EPOCHREALTIME/[.,]/} - begun) / 100000))
  {
    flock 9
    if [[ $verdict != ok ]]; then cat "$said"; fi
    printf '%-6s %4d.%d s  %s %s\n' "$verdict" $((took / 10)) $((took % 10)) "$name" "$test"
    # Of each only the last result counts: a test of the lab shows its inner harness when it fails.
    echo "$verdict $(grep '^test result: ' "$said" | tail -n 1)" >>"$SCRATCH/results"
  } 9>"$SCRATCH/lock"
}
export -f one
export SCRATCH=$scratch

cargo test --workspace --no-run --message-format=json-render-diagnostics |
  jq -r 'select(.executable and .profile.test)
    | [.target.kind[0], .target.name, (.manifest_path | rtrimstr("/Cargo.toml")), .executable]
    | @tsv' >"$scratch/programs" || exit 1
while IFS=$'\t' read -r kind name directory program; do
  this=$name$'\t'$directory$'\t'$program
  if [[ $kind == test && $directory == "$PWD/tests" ]]; then
    "$program" --list --format terse | sed -n "s|\(.*\): test\$|$this\t\1|p"
  else
    echo "$this"
  fi
done <"$scratch/programs" >"$scratch/tests"

tests_of() {
  local name
  for name in "$@"; do grep "^$name"$'\t' "$scratch/tests"; done
}
tests_of_others() { grep -vE "^($(IFS='|' && echo "$*"))"$'\t' "$scratch/tests"; }
run() { xargs -r -d '\n' -n 1 -P "$1" bash -c 'one "$1"' one; }
{
  tests_of "${longest[@]}"
  tests_of_others "${longest[@]}" "${alone[@]}"
} | run "${JOBS:-$(nproc)}"
tests_of "${alone[@]}" | run 1

# As cargo says it. What failed without a word, or was never heard of, is one test that failed.
awk -v expected="$(wc -l <"$scratch/tests")" '
  { passed += $5; failed += $7 || ($1 == "ok" && NF > 1) ? $7 : 1; ignored += $9 }
  END {
    failed += expected - NR
    printf "test result: %s. %d passed; %d failed; %d ignored\n",
      failed ? "FAILED" : "ok", passed, failed, ignored
    exit failed > 0 || passed == 0
  }' "$scratch/results"
