#!/usr/bin/env bash
# Checks the units: systemd reads every line of them without a complaint, and the sandboxes are as
# tight as promised. Needs systemd-analyze (of systemd 250 or later); starts and changes nothing.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

passed=0
failed=0
ok() { passed=$((passed + 1)); echo "ok: $*"; }
bad() { failed=$((failed + 1)); echo "FAILED: $*" >&2; }

scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
# The programs need not be installed for this: something else stands in for them.
cp ./*.service ./*.timer "$scratch"
sed -i -E 's/^ExecStart=(actuator|exporter)\b/ExecStart=\/bin\/true/' "$scratch"/*.service
units=("$scratch"/*.service "$scratch"/*.timer)
for unit in "${units[@]}"; do
  said=$(systemd-analyze verify --man=no "$unit" 2>&1)
  status=$?
  if [[ $status == 0 && -z $said ]]; then
    ok "${unit##*/} is understood"
  else
    bad "${unit##*/}: systemd-analyze verify ended with $status and said: $said"
  fi
done

# The network waits for the lock.
while read -r unit; do
  gated=$scratch/gate/$unit
  mkdir -p "$gated.d"
  printf '[Service]\nExecStart=/bin/true\n' >"$gated"
  cp network-gate.conf "$gated.d/50-vpn-egress.conf"
  cp "$scratch/vpn-egress-killswitch.service" "$scratch/gate/"
  said=$(SYSTEMD_UNIT_PATH=$scratch/gate: systemd-analyze verify --man=no "$gated" 2>&1)
  if [[ -z $said ]]; then
    ok "$unit waits for the lock"
  else
    bad "$unit with its drop-in: $said"
  fi
done <network-gate.list

# What systemd-analyze security may say at most, in tenths.
declare -A most=([exporter]=20 [validate]=21 [actuator]=26 [killswitch]=37)
for unit in *.service; do
  name=${unit#vpn-egress-}
  name=${name%.service}
  if said=$(systemd-analyze security --offline=yes --threshold="${most[$name]:-0}" "$unit" 2>&1); then
    ok "$(tail -n 1 <<<"$said" | sed 's/^[^A-Za-z]*//; s/ [A-Z]* [^ ]*$//')"
  else
    bad "$(tail -n 1 <<<"$said"); at most ${most[$name]:-0} tenths are allowed"
  fi
done

echo "$passed passed, $failed failed"
[[ $failed == 0 && $passed -gt 0 ]]
