#!/usr/bin/env bash
# Checks the dashboard: every expression parses, uses only metrics that docs/metrics.md lists, and
# selects by job and instance; every panel is complete. Needs promtool and jq. Changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

dashboard=dashboards/vpn-egress.json
metrics=../docs/metrics.md
passed=0
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

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

# Every expression with the name of its panel or annotation, one JSON array per line.
expressions() {
  jq -c '
    (.panels[] | .title as $title | (.targets // [])[] | [$title + " " + .refId, .expr]),
    (.annotations.list[] | select(.expr) | ["annotation " + .name, .expr])
  ' "$dashboard"
}

# What Grafana would send: the variables filled in.
filled() {
  sed -e 's/\$__rate_interval/1m/g' -e 's/\$__range/6h/g' -e 's/\$\(job\|instance\|path\)\b/.+/g' <<<"$1"
}

# JSON is YAML, so jq can write the rules file.
parses() {
  local rule
  rule=$(filled "$1")
  if [[ $rule == *'$'* ]]; then
    echo "a variable that is not known here: $rule"
    return 1
  fi
  jq -n --arg expr "$rule" '{groups: [{name: "dashboard", rules: [{record: "dashboard:panel", expr: $expr}]}]}' \
    >"$scratch/rules.yml"
  promtool check rules "$scratch/rules.yml"
}

# The metrics that the documentation lists, with the series that a histogram has.
documented() {
  sed -n 's/^| `\(vpn_egress_[a-z0-9_]*\)` | \([a-z]*\) |.*/\1 \2/p' "$metrics" |
    awk '{ print $1 } $2 == "histogram" { print $1 "_bucket"; print $1 "_sum"; print $1 "_count" }'
}
used() { grep -oE '\bvpn_egress_[a-z0-9_]+' <<<"$1" | sort -u; }
is_documented() {
  local name
  while read -r name; do
    grep -qFx "$name" "$scratch/documented" || { echo "not in $metrics: $name"; return 1; }
  done < <(used "$1")
}
# Each selector begins with the matchers that the variables fill.
selects() {
  local rest='{job=~"$job",instance=~"$instance"'
  local names
  names=$(grep -oE '\bvpn_egress_[a-z0-9_]+' <<<"$1" | wc -l)
  [[ $names -eq $(grep -oF "$rest" <<<"$1" | wc -l) ]]
}
# A rate over what is shown, so that it holds at every zoom; $__range is for totals.
rate_interval() { ! grep -E 'rate\([^[]*\[[^$]' <<<"$1"; }

every_panel() { jq -e "[.panels[] | select(.type != \"row\") | $1] | all" "$dashboard"; }

documented >"$scratch/documented"
check "docs/metrics.md lists metrics" test -s "$scratch/documented"
check "the dashboard is JSON" jq -e . "$dashboard"
check "its uid is vpn-egress, its schema version 39" jq -e '.uid == "vpn-egress" and .id == null and .schemaVersion == 39' "$dashboard"
check "it is templated by datasource, job, instance, path" \
  jq -e '[.templating.list[].name] == ["datasource", "job", "instance", "path"]' "$dashboard"
check "every panel has a title" every_panel '.title | length > 0'
check "every panel has a description" every_panel '.description | length > 0'
check "every panel has a unit" every_panel '.type == "text" or (.fieldConfig.defaults.unit | length > 0)'
check "every panel has a query" every_panel '.type == "text" or (.targets | length > 0)'
check "every panel takes its data from the variable" \
  every_panel '.type == "text" or ([.datasource, .targets[].datasource] | all(.uid == "${datasource}"))'
check "no id is used twice" jq -e '[.panels[].id] | length == (unique | length)' "$dashboard"
check "alerts are annotations" \
  jq -e '[.annotations.list[].expr // ""] | any(startswith("ALERTS{alertname=~\"VpnEgress.*\""))' "$dashboard"

while read -r line; do
  name=$(jq -r '.[0]' <<<"$line")
  expr=$(jq -r '.[1]' <<<"$line")
  check "$name: parses" parses "$expr"
  check "$name: documented metrics only" is_documented "$expr"
  check "$name: selects job and instance" selects "$expr"
  check "$name: rate interval" rate_interval "$expr"
done < <(expressions)

if [[ $failed -gt 0 ]]; then
  echo "$passed passed, $failed failed"
  exit 1
fi
echo "$passed passed, 0 failed"
