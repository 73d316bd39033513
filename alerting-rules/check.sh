#!/usr/bin/env bash
# Checks the rules, their tests, both configurations, the routing and the runbook.
# Needs promtool, amtool and Alertmanager itself (Debian: prometheus, prometheus-alertmanager).
# Changes nothing; Alertmanager runs for a moment on a port of its own, on loopback.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

rules=vpn-egress.rules.yml
passed=0
failed=0
scratch=$(mktemp -d)
alertmanager_pid=
cleanup() {
  # Waited for: it writes its state at its end, and a directory that it still writes into cannot be
  # removed, which would be this script's exit code.
  if [[ -n $alertmanager_pid ]]; then
    kill "$alertmanager_pid" 2>/dev/null || true
    wait "$alertmanager_pid" 2>/dev/null || true
  fi
  rm -rf "$scratch"
}
trap cleanup EXIT

# check NAME COMMAND...: one assertion. Its output is shown where it fails.
check() {
  local name=$1
  shift
  if "$@" >"$scratch/output" 2>&1; then
    passed=$((passed + 1))
    echo "ok    $name"
  else
    failed=$((failed + 1))
    echo "FAIL  $name"
    sed 's/^/      /' "$scratch/output"
  fi
}

# The alerts of the rules file, one per line: name, severity, action or "-".
alerts() {
  awk '
    function flush() { if (name != "") print name, severity, action }
    $1 == "-" && $2 == "alert:" { flush(); name = $3; severity = "-"; action = "-" }
    $1 == "severity:" { severity = $2 }
    $1 == "action:" { action = $2 }
    END { flush() }
  ' "$rules"
}

# The anchors that a Markdown page gets for its headings.
anchors() {
  sed -n 's/^##* //p' "$1" | tr '[:upper:] ' '[:lower:]-' | tr -cd 'a-z0-9_\n-'
}

# The lines of one alert's rule.
rule() {
  awk -v name="$1" '
    $1 == "-" && ($2 == "alert:" || $2 == "name:") { inside = ($3 == name) }
    inside
  ' "$rules"
}

in_runbook() {
  local url
  url=$(rule "$1" | awk '$1 == "runbook_url:" { print $2 }')
  [[ $url == https://github.com/vpn-egress/vpn-egress/blob/main/alerting-rules/runbook.md#?* ]] &&
    anchors runbook.md | grep -Fx "${url#*#}" &&
    [[ ${url#*#} == "${1,,}" ]]
}
is_complete() {
  local key
  for key in severity: summary: description: runbook_url:; do
    rule "$1" | grep -E "^ +$key" || { echo "$1 has no $key"; return 1; }
  done
}
# Not only its name: an expectation that it fires, with all its labels.
in_tests() { grep -E "^ *- labels: 'ALERTS\{alertname=\"$1\",alertstate=\"firing\"," tests/*.yml; }
# The six cases of an alert, each a series of its own in one test, which a label names. The one for
# which it has to fire is among what is expected, the one for which it must not is not.
has_cases() {
  local test case missing=0
  test=$(awk -v name="$1" '
    $1 == "-" && $2 == "name:" { inside = ($3 == "\"" name ":") }
    inside
  ' tests/cases-*.yml)
  for case in firing not-firing reset stale flapping restart; do
    grep -Eq "^ *- series: '[a-z_]+\{.*=\"$case\"" <<<"$test" || { echo "$1 has no case $case"; missing=1; }
  done
  expected() { grep -Eq "^ *- labels: '\{[a-z]+=\"$1\"\}'" <<<"$test"; }
  expected firing || { echo "$1 is not expected to fire in the case firing"; missing=1; }
  ! expected not-firing || { echo "$1 is expected to fire in the case not-firing"; missing=1; }
  return "$missing"
}
# What a person looks for in a section, each once and in this order.
is_whole_section() {
  local parts
  parts=$(awk -v name="$1" '
    /^##/ { inside = ($0 == "### " name) }
    inside && /^\*\*[A-Z][a-z]+\.\*\* ./ { print $1 }
  ' runbook.md | tr '\n' ' ')
  [[ $parts == "**Means.** **Check.** **Do.** **Silence.** " ]] || { echo "$1 has: $parts"; return 1; }
}
# Every link from one section to another leads somewhere.
no_dead_anchor() {
  local anchor
  while read -r anchor; do
    anchors runbook.md | grep -Fxq "$anchor" || { echo "no such section: #$anchor"; return 1; }
  done < <(grep -Eo '\]\(#[a-z0-9-]+\)' runbook.md | tr -d '](#)')
}
# The other way round: no section about an alert that does not exist.
no_stray_section() {
  local section
  while read -r section; do
    alerts | grep "^$section " || { echo "no such alert: $section"; return 1; }
  done < <(sed -n 's/^### //p' runbook.md)
}
lint_rules() {
  if promtool check rules --help 2>&1 | grep -q -- --lint-fatal; then
    promtool check rules --lint=all --lint-fatal "$rules"
  else
    promtool check rules "$rules"
  fi
}
# The leak is written out in two rules, in the same words.
one_leak() {
  [[ $(leak_terms VpnEgressLeak) == "$(leak_terms VpnEgressTunnelDown)" && -n $(leak_terms VpnEgressLeak) ]]
}
leak_terms() {
  rule "$1" | sed -n '/increase(vpn_egress_leaked_packets_total/,/offset 5m)/p' | tr -s ' '
}

# --- rules and their tests
check "promtool check rules" promtool check rules "$rules"
check "promtool check rules, all lints" lint_rules
for file in tests/*.yml; do
  check "promtool test rules $file" promtool test rules "$file"
done
check "the leak is the same in VpnEgressLeak and VpnEgressTunnelDown" one_leak

hosts_kept() {
  grep -E '(^|[^a-z])(on|by) ?\(' "$rules" >"$scratch/joins"
  ! grep -v '(host, ' "$scratch/joins"
}
check "every join and every sum keeps the host" hosts_kept

# --- every alert is complete, in the runbook and in a test
[[ $(alerts | wc -l) -gt 0 ]] || { echo "no alerts found in $rules"; exit 1; }
while read -r name _; do
  check "$name has all annotations" is_complete "$name"
  check "$name has its section in the runbook" in_runbook "$name"
  check "$name has its section whole: means, check, do, silence" is_whole_section "$name"
  check "$name fires in a test" in_tests "$name"
  # The watchdog reads no series, so nothing that a series does can change it: watchdog.yml.
  [[ $name == VpnEgressWatchdog ]] || check "$name has its six cases" has_cases "$name"
done < <(alerts)
check "the runbook has no dead anchor" no_dead_anchor
check "the runbook has no section too many" no_stray_section

# --- configurations
check "promtool check config prometheus.yml" promtool check config prometheus.yml

# The credentials file is on gateways only: checked is a copy that names another, and that sends
# nothing to a real actuator.
install -m 600 /dev/null "$scratch/actuator.token"
sed -e "s|/etc/vpn-egress/actuator.token|$scratch/actuator.token|" \
  -e 's|http://127.0.0.1:9062/|http://127.0.0.1:9/|' alertmanager.yml >"$scratch/alertmanager.yml"
check "amtool check-config alertmanager.yml" amtool check-config "$scratch/alertmanager.yml"
credentials_from_file() {
  grep -Eq '^ +credentials_file: /etc/vpn-egress/actuator\.token$' alertmanager.yml &&
    ! grep -Eq '^[^#]*(credentials|password|bearer_token):' alertmanager.yml
}
check "S10: the credentials come from a file" credentials_from_file
no_resolved() { [[ $(grep -c '^ *send_resolved: false$' alertmanager.yml) == $(grep -c '^ *- url:' alertmanager.yml) ]]; }
check "the actuator is never told of a resolved alert" no_resolved

# --- who is told of what
routed() {
  local receivers=$1
  shift
  amtool config routes test --config.file="$scratch/alertmanager.yml" --verify.receivers="$receivers" "$@"
}
while read -r name severity action; do
  labels=(alertname="$name" severity="$severity" path=media instance=gw1:9061 job=vpn-egress-exporter)
  case $action in
    heartbeat) receivers=actuator ;;
    -) receivers=people ;;
    *) receivers=actuator,people ;;
  esac
  [[ $action == - ]] || labels+=(action="$action")
  check "$name goes to $receivers" routed "$receivers" "${labels[@]}"
done < <(alerts)
check "another team's alert with an action goes to people" \
  routed people alertname=DiskFull action=cleanup severity=warning

# --- several hosts: the example that `actuator render alertmanager` makes
fleet=../docs/guides/fleet
mkdir "$scratch/fleet"
for file in ca.crt gw1.token gw2.token gw3.token; do install -m 600 /dev/null "$scratch/fleet/$file"; done
cp "$rules" "$scratch/"
for file in alertmanager.yml prometheus.yml; do
  sed "s|/etc/prometheus/vpn-egress/|$scratch/fleet/|" "$fleet/$file" >"$scratch/fleet-$file"
done
check "promtool check config fleet/prometheus.yml" promtool check config "$scratch/fleet-prometheus.yml"
check "amtool check-config fleet/alertmanager.yml" amtool check-config "$scratch/fleet-alertmanager.yml"
# fleet_routed RECEIVERS LABELS...
fleet_routed() {
  local name="fleet: ${*:2} goes to $1" receivers=$1
  shift
  check "$name" amtool config routes test --config.file="$scratch/fleet-alertmanager.yml" \
    --verify.receivers="$receivers" "$@"
}
while read -r name severity action; do
  labels=(alertname="$name" severity="$severity" path=media instance=l job=vpn-egress-exporter)
  [[ $action == - ]] || labels+=(action="$action")
  case $action in
    heartbeat)
      fleet_routed actuator-gw1,actuator-gw2,actuator-gw3 "${labels[@]}"
      fleet_routed actuator-gw2 "${labels[@]}" host=gw2
      fleet_routed nobody "${labels[@]}" host=gw22
      ;;
    -) fleet_routed people "${labels[@]}" host=gw2 ;;
    *)
      for host in gw1 gw2 gw3; do fleet_routed "actuator-$host,people" "${labels[@]}" host="$host"; done
      fleet_routed nobody,people "${labels[@]}" host=gw22
      fleet_routed nobody,people "${labels[@]}"
      ;;
  esac
done < <(alerts)
fleet_routed people alertname=DiskFull action=cleanup host=gw2

# --- inhibition, by Alertmanager itself
alertmanager=$(command -v alertmanager || command -v prometheus-alertmanager || true)
port=$((20000 + RANDOM % 10000))
am() { amtool --alertmanager.url="http://127.0.0.1:$port" "$@"; }
start_alertmanager() {
  [[ -n $alertmanager ]] || { echo "no alertmanager in PATH"; return 1; }
  # Not in a subshell, so that cleanup knows the id.
  "$alertmanager" --config.file="$scratch/alertmanager.yml" --storage.path="$scratch/data" \
    --web.listen-address="127.0.0.1:$port" --cluster.listen-address= >"$scratch/alertmanager.log" 2>&1 &
  alertmanager_pid=$!
  local try
  for try in {1..100}; do
    if am alert query >/dev/null 2>&1; then return 0; fi
    kill -0 "$alertmanager_pid" || break
    sleep 0.1
  done
  echo "not ready after try $try"
  cat "$scratch/alertmanager.log"
  return 1
}
fire() {
  local instance=$1 path=$2
  shift 2
  am alert add "$@" job=e instance="$instance" path="$path"
}
# Where tunnel-down is not held back, and where it is at all, as "instance/path".
active() { am alert query --output=json --active alertname=VpnEgressTunnelDown | places; }
every() { am alert query --output=json --active --inhibited alertname=VpnEgressTunnelDown | places; }
places() {
  grep -Eo '"(instance|path)":"[^"]*"' | cut -d'"' -f4 | paste -d/ - - | sort | paste -sd' '
}
leak_inhibits() {
  fire gw1 media alertname=VpnEgressLeak action=hard-stop
  fire gw1 media alertname=VpnEgressTunnelDown action=failover endpoint=a
  fire gw1 other alertname=VpnEgressTunnelDown action=failover endpoint=a
  fire gw2 media alertname=VpnEgressTunnelDown action=failover endpoint=a
  local try
  for try in {1..50}; do
    if [[ $(every) == "gw1/media gw1/other gw2/media" && $(active) == "gw1/other gw2/media" ]]; then return 0; fi
    sleep 0.1
  done
  echo "after try $try: all: $(every); not inhibited: $(active)"
  return 1
}
check "Alertmanager starts with this configuration" start_alertmanager
check "S3: a leak inhibits tunnel-down on its own path and host only" leak_inhibits

if [[ $failed -gt 0 ]]; then
  echo "$passed passed, $failed failed"
  exit 1
fi
echo "$passed passed, 0 failed"
