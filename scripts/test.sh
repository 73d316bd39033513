#!/usr/bin/env bash
# `make test`: everything that can be checked, and one line at the end that sums it up. A step that
# fails does not keep the others from being run; it makes the whole fail.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

scripts/setup.sh || exit 1

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
failed_steps=()
steps=0
# step NAME COMMAND...: shows what it says, and keeps it to count in.
step() {
  local name=$1
  shift
  steps=$((steps + 1))
  echo
  echo "== $name"
  "$@" </dev/null 2>&1 | tee -a "$scratch/$name" || failed_steps+=("$name")
}

# The results of cargo test: passed, failed, ignored. A test of the lab shows its inner harness when
# it fails; of each binary only the last result counts, and of tests.sh the one at its end.
tests() {
  cat "$scratch"/tests* | awk '
    function add() { passed += last[4]; failed += last[6]; ignored += last[8]; split("", last) }
    /^ +(Running|Doc-tests) / { add() }
    /^test result: / { split($0, last, / +/) }
    END { add(); print passed + 0, failed + 0, ignored + 0 }'
}
# What the check.sh scripts say at their end: "N passed, M failed".
checks() {
  cat "$scratch"/checks* | awk '
    /^[0-9]+ passed, [0-9]+ failed$/ { passed += $1; failed += $3 }
    END { print passed + 0, failed + 0 }'
}

export CARGO_TERM_COLOR=never
step "format" cargo fmt --all --check
step "clippy" cargo clippy --workspace --all-targets -- -D warnings
# Of the whole workspace, as all that follows: with another choice of packages, dependencies have
# other features, and are compiled once more.
step "clippy, the tests that are run by themselves" \
  cargo clippy --workspace --test crowd --test ansible --test suricata -- -D warnings
step "checks of the rules" alerting-rules/check.sh
if [[ -x grafana/check.sh ]]; then step "checks of the dashboards" grafana/check.sh; fi
# What not every machine can show; what was not run has not passed, and is named at the end.
not_shown=()
if type -P systemd-analyze >/dev/null; then
  step "checks of the units" systemd/check.sh
else
  not_shown+=("that systemd understands the units, and how tight they are (needs systemd-analyze)")
fi
step "build" cargo build --workspace --bins
step "tests" scripts/tests.sh
step "tests with a crowd" cargo test --workspace --test crowd
step "tests of the documentation" cargo test --workspace --doc
if type -P ansible-playbook >/dev/null; then
  step "tests with a real Ansible" cargo test --workspace --test ansible
else
  not_shown+=("that the tasks of docs/ansible.md do what they say (needs ansible-core)")
fi
if type -P suricata >/dev/null && type -P ethtool >/dev/null; then
  step "tests with a real Suricata" cargo test --workspace --test suricata -- --test-threads=1
else
  not_shown+=("what a real Suricata does to the tunnel (needs suricata 7 and ethtool)")
fi

read -r passed failed ignored < <(tests)
read -r checks_passed checks_failed < <(checks)
echo
echo "total: tests: $passed passed, $failed failed, $ignored ignored;" \
  "checks: $checks_passed passed, $checks_failed failed;" \
  "steps: $((steps - ${#failed_steps[@]})) of $steps passed"
if [[ ${#not_shown[@]} -gt 0 ]]; then printf 'not shown here: %s\n' "${not_shown[@]}"; fi
if [[ ${#failed_steps[@]} -gt 0 ]]; then
  printf 'failed: %s\n' "${failed_steps[@]}"
  exit 1
fi
# A step that passes without having tested anything has not passed.
[[ $passed -gt 0 && $checks_passed -gt 0 && $failed == 0 && $checks_failed == 0 ]]
