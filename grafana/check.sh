#!/usr/bin/env bash
# Checks the dashboards: every expression parses, uses only metrics that docs/metrics.md lists, and
# selects by job and instance; every panel is complete. What Grafana's dashboard-linter asks for is
# named with its rule. Needs promtool and jq. Changes nothing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

metrics=../docs/metrics.md
passed=0
failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# check NAME COMMAND...: one assertion. Its output is shown where it fails.
check() {
  local name="${dashboard:+$(basename "$dashboard" .json): }$1"
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
  sed -n -e 's/^| `\(vpn_egress_[a-z0-9_]*\)` | \([a-z]*\) |.*/\1 \2/p' \
    -e 's/^| `\(vpn_egress:[a-z0-9_:]*\)` |.*/\1 rule/p' "$metrics" |
    awk '{ print $1 } $2 == "histogram" { print $1 "_bucket"; print $1 "_sum"; print $1 "_count" }'
}
used() { grep -oE '\bvpn_egress[_:][a-z0-9_:]+' <<<"$1" | sort -u; }
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
  names=$(grep -oE '\bvpn_egress[_:][a-z0-9_:]+' <<<"$1" | wc -l)
  [[ $names -eq $(grep -oF "$rest" <<<"$1" | wc -l) ]]
}
# A rate over what is shown, so that it holds at every zoom; $__range is for totals.
rate_interval() { ! grep -oE '\bi?rate\([^[]*\[[^]]*\]' <<<"$1" | grep -vF '[$__rate_interval]'; }
# A counter's value by itself says nothing.
counters_aggregated() {
  local all aggregated
  all=$(grep -oE '\bvpn_egress_[a-z0-9_]+_total\b' <<<"$1" | wc -l)
  aggregated=$(grep -oE '\b(rate|irate|increase)\(vpn_egress_[a-z0-9_]+_total\b' <<<"$1" | wc -l)
  [[ $all -eq $aggregated ]]
}

every_panel() { jq -e "[.panels[] | select(.type != \"row\") | $1] | all" "$dashboard"; }

# A variable over which Prometheus is asked anew when the time range changes.
templated() {
  jq -e --arg name "$1" --arg shown "$2" '.templating.list[] | select(.name == $name)
    | .label == $shown and .multi and .includeAll and .allValue == ".+" and .refresh == 2
      and .datasource.uid == "${datasource}" and (.query.query | startswith("label_values("))' "$dashboard"
}

check_dashboard() {
  check "JSON" jq -e . "$dashboard"
  check "uid, schema version 39" jq -e '(.uid | startswith("vpn-egress")) and .id == null and .schemaVersion == 39' "$dashboard"
  check "template-datasource-rule" \
    jq -e '.templating.list[0] | .name == "datasource" and .label == "Data source" and .type == "datasource" and .query == "prometheus"' "$dashboard"
  check "template-job-rule, template-on-time-change-reload-rule" templated job Job
  check "template-instance-rule, template-on-time-change-reload-rule" templated instance Instance
  check "templated by path" templated path Path
  check "uneditable-dashboard" jq -e '.editable == false' "$dashboard"
  check "panel-title-description-rule" every_panel '(.title | length > 0) and (.description | length > 0)'
  check "panel-units-rule" every_panel '.type == "text" or (.fieldConfig.defaults.unit | length > 0)'
  check "panel-no-targets-rule" every_panel '.type == "text" or (.targets | length > 0)'
  check "panel-datasource-rule" \
    every_panel '.type == "text" or ([.datasource, .targets[].datasource] | all(.uid == "${datasource}"))'
  check "no id is used twice" jq -e '[.panels[].id] | length == (unique | length)' "$dashboard"
  check "alerts are annotations" \
    jq -e '[.annotations.list[].expr // ""] | any(startswith("ALERTS{alertname=~\"VpnEgress.*\""))' "$dashboard"
  local line name expr
  while read -r line; do
    name=$(jq -r '.[0]' <<<"$line")
    expr=$(jq -r '.[1]' <<<"$line")
    check "$name: target-promql-rule" parses "$expr"
    check "$name: documented metrics only" is_documented "$expr"
    check "$name: target-job-rule, target-instance-rule" selects "$expr"
    check "$name: target-rate-interval-rule" rate_interval "$expr"
    check "$name: target-counter-agg-rule" counters_aggregated "$expr"
  done < <(expressions)
  while read -r expr; do
    check "variable: template-label-promql-rule" parses "$expr"
  done < <(jq -r '.templating.list[].query.query? // empty | capture("label_values\\((?<expr>.*), *[a-z]+\\)$").expr' "$dashboard")
}

dashboard=
documented >"$scratch/documented"
check "docs/metrics.md lists metrics" test -s "$scratch/documented"
for dashboard in dashboards/*.json; do
  check_dashboard
done
dashboard=
check "no uid is used twice" jq -se '[.[].uid] | length == (unique | length)' dashboards/*.json

if [[ $failed -gt 0 ]]; then
  echo "$passed passed, $failed failed"
  exit 1
fi
echo "$passed passed, 0 failed"
