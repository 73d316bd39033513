#!/usr/bin/env bash
# `make compose-test`: runs the compose file on a Docker engine of its own, in namespaces of its own:
# a dead endpoint is left, nothing gets out, the lock outlives the containers, and the lab's story
# passes in its container. As root; needs dockerd, wireguard-go, nft and the images: pulled, or built
# and imported into the engine's directory, target/compose-test (or DOCKER_ROOT) before.
#   COMPOSE="docker compose"   by default whatever of the two is there
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
work=${DOCKER_ROOT:-$target/compose-test}
scratch=$work/host
group=64999
export DOCKER_HOST=unix://$work/docker.sock
if [[ -z ${COMPOSE:-} ]]; then
  COMPOSE=docker-compose
  if docker compose version >/dev/null 2>&1; then COMPOSE="docker compose"; fi
fi
source packaging/world.sh

inside() { nsenter -t "$host" --net --mount -- "$@"; }
# Compose may be two words.
# shellcheck disable=SC2086
compose() { inside env --chdir="$PWD" COMPOSE_PROJECT_NAME=vpn-egress VPN_EGRESS_GID="$group" \
  COMPOSE_FILE=docker-compose.yml:docker/userspace.yml \
  VPN_EGRESS_CONFIG="$scratch/config" VPN_EGRESS_KEYS="$scratch/keys" $COMPOSE "$@"; }
container() { compose exec -T "$@"; }
ends_with() {
  kill "$engine" 2>/dev/null
  wait "$engine" 2>/dev/null
  kill -KILL "$unshared" 2>/dev/null
}
has_engine() { inside docker info >/dev/null 2>&1; }
are_healthy() { [[ $(inside docker ps --quiet --filter health=healthy | wc -l) == "$1" ]]; }
active() { container actuator actuator status --json | jq -r '.paths[0].active_endpoint'; }
# By the whole chain, with the token; said of none that is there.
has_heartbeat() {
  container actuator actuator status >"$work/status" && grep -q '^path' "$work/status" &&
    ! grep -q 'no heartbeat' "$work/status"
}
is_on() { [[ $(active) == "$1" ]]; }
# Of the container's first process: the user, and the capabilities.
is_unprivileged() {
  local process
  process=$(inside docker inspect --format '{{.State.Pid}}' "$(compose ps -q exporter)")
  grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs)' "/proc/$process/status"
  grep -q '^Uid:.65532.65532.65532.65532' "/proc/$process/status" &&
    grep -q '^CapBnd:.0*3002$' "/proc/$process/status" && grep -q '^NoNewPrivs:.1' "/proc/$process/status"
}

[[ $EUID == 0 ]] || { echo "compose-test: run as root: it starts an engine" >&2; exit 1; }
mkdir -p "$work" "$scratch/config" "$scratch/keys"
# The host under test: its own network, and its own places for sockets and state.
unshare --net --mount --fork --kill-child sh -c \
  'mount -t tmpfs tmpfs /run && mount -t tmpfs tmpfs /var/lib && mkdir -p /run/wireguard && ip link set lo up && exec sleep infinity' &
unshared=$!
eventually pgrep -P "$unshared" >/dev/null
host=$(pgrep -P "$unshared")
engine=
trap ends_with EXIT
eventually inside test -d /run/wireguard
# Not by `inside`: what is killed at the end is the engine, and no shell around it.
nsenter -t "$host" --net --mount -- dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/dockerd.pid" \
  --host "$DOCKER_HOST" --bridge=none --iptables=false --ip6tables=false >"$work/dockerd.log" 2>&1 &
engine=$!
world "$scratch/keys" || { echo "compose-test: the world could not be built" >&2; exit 1; }
eventually has_engine || { tail "$work/dockerd.log" >&2; exit 1; }
cat >"$scratch/config/egress.yml" <<'END'
paths:
  - name: media
    interface: wg0
    endpoints:
      - {name: primary, wg_quick: /etc/wireguard/wg0.conf}
      - {name: backup, wg_quick: /etc/wireguard/backup.conf}
    health:
      probe: {target: 10.64.0.1}
END
for_group() {
  group=$1
  chgrp -R "$group" "$scratch/config" "$scratch/keys"
}
for_group "$group"
chmod -R g+rX,o= "$scratch/config" "$scratch/keys"
services=(exporter actuator prometheus alertmanager)
if inside docker image inspect grafana/grafana:12.1.1 >/dev/null 2>&1; then
  services+=(grafana)
else
  echo "not shown here: Grafana (its image is not there)"
fi

start_traffic
check "the observer sees what gets out of a host without a lock" gets_out
check "wg-quick brings the tunnel up" inside wg-quick up "$scratch/keys/wg0.conf"
check "$COMPOSE brings everything up" compose up --detach --no-build "${services[@]}"
check "the first start puts the lock on" eventually is_locked
mark
check "all ${#services[@]} are healthy" eventually are_healthy "${#services[@]}"
# The third one is for the userspace WireGuard of this world.
check "the exporter is nobody, with three capabilities and no way to more" is_unprivileged
check "it finds the path up" eventually has_up_cycles
check "every collector of it works" all_collectors_work
check "the primary is in use" is_on primary
inside ip -n outside link set wg-outside down
dead=$SECONDS
check "a dead primary is left for the backup" eventually is_on backup
echo "      after $((SECONDS - dead)) s"
inside ip -n outside link set wg-outside up
check "the containers are started anew" compose restart
check "all are healthy again" eventually are_healthy "${#services[@]}"
check "the choice is the same" is_on backup
for_group 64998
check "a second up, for another group, converges nothing" compose up --detach --no-build "${services[@]}"
check "the choice is the same still" is_on backup
check "the daemon hears of alerts" eventually has_heartbeat
check "the containers go" compose down
check "the lock stays" is_locked
check "nothing got out since it was on" nothing_got_out
check "the lab's story passes in a container without a network" compose --profile lab run --rm lab

echo "$(inside docker version --format 'engine {{.Server.Version}}'), $($COMPOSE version --short 2>/dev/null)"
inside docker image ls --format '{{.Repository}}:{{.Tag}} {{.Size}}' | grep -v '<none>'
echo "$passed passed, $failed failed"
[[ $failed == 0 && $passed -gt 0 ]]
