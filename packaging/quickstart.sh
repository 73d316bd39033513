#!/usr/bin/env bash
# `make quickstart`: the README's quick start, as it is written there, in a clean Debian with a running
# systemd: each command is run in its order by a person who may use sudo, and timed. Then what the
# README promises is looked for: locked, at the other endpoint after the drill, nothing outside.
# Needs and makes what `make deb-test` does, and Debian's packages of Prometheus and Alertmanager.
#   PACKAGES=DIR  the package, built before; without it, it is built, and that is timed too
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
work=$target/quickstart
# The same as of `make deb-test`.
base=$target/deb-test/base
root=$work/machine
tree=$work/tree
source packaging/machine.sh
source packaging/world.sh

# The commands of the README's quick start, one a line; what is built, and answers, are not run here.
commands() {
  sed -n '/^## Quick start/,/^## Command line/p' README.md | sed -n '/^```sh$/,/^```$/p' |
    sed -e '/^```/d' -e '1,/^make /d' -e 's/ *#.*$//' | sed -e ':whole' -e '/\\$/{N;s/\\\n *//;b whole}'
}
# What apt-get is asked for in there comes from its cache: the machine has no network.
fill_cache() {
  if [[ -e $base.filled ]]; then return 0; fi
  cp /etc/resolv.conf "$base/etc/resolv.conf" &&
    chroot "$base" apt-get -q update &&
    chroot "$base" apt-get -q -y --no-install-recommends --download-only install prometheus prometheus-alertmanager &&
    : >"$base.filled"
}
# One command by a person, who answers a question with yes and leaves the editor without a change.
# What a check would change is told by its exit code, and what is wrong by that of a status.
types() {
  echo y | inside sudo -H -u person env --chdir=/packages VISUAL=true bash -c "$1"
  local status=$?
  [[ $status == 0 || ($status == 2 && $1 == *--check) || ($status == 3 && $1 == *status) ]]
}
active() { inside actuator status --json | jq -r '.paths[0].active_endpoint'; }
is_on() { [[ $(active) == "$1" ]]; }

needs_root quickstart
rm -rf "$tree"
mkdir -p "$tree/target/deb"
git archive HEAD | tar -x -C "$tree" || exit 1
if [[ -z ${PACKAGES:-} ]]; then
  begun=$SECONDS
  packaging/deb.sh || exit 1
  echo "make deb: $((SECONDS - begun)) s"
fi
cp "${PACKAGES:-$target/deb}"/vpn-egress_*-1_*.deb "$tree/target/deb" || exit 1
packages_in=$tree
make_base && fill_cache || exit 1
boot || { echo "quickstart: the machine did not start"; cat "$work/boot.log"; exit 1; } >&2
world /root/keys || { echo "quickstart: the world could not be built" >&2; exit 1; }
# As a provider gives them.
inside sh -e <<'END'
useradd --create-home --shell /bin/bash person
echo "person ALL=(ALL) NOPASSWD: ALL" >/etc/sudoers.d/person
grep -q "$(hostname)" /etc/hosts || echo "127.0.1.1 $(hostname)" >>/etc/hosts
cd /root/keys
for file in wg0.conf:a.conf backup.conf:b.conf; do
  sed -e '/^Table/d' -e '/^PostUp/d' -e '/^Address/a DNS = 10.64.0.1' "${file%:*}" >"/packages/${file#*:}"
done
chown -R person: /packages
# This world's WireGuard is a userspace one: docs/install.md.
install -d /etc/systemd/system/vpn-egress-exporter.service.d
install -m 0644 /packages/systemd/userspace-wireguard.conf /etc/systemd/system/vpn-egress-exporter.service.d
END
start_traffic
check "the observer sees what gets out of a host without a lock" gets_out

typed=0
begun=$SECONDS
while IFS= read -r line; do
  if [[ -z $line ]]; then continue; fi
  typed=$((typed + 1))
  at=$SECONDS
  # The last one is the failback: what the drill has done is looked for before.
  if [[ $line == "sudo actuator converge" ]] && ((typed > 10)); then
    check "the drill has moved the path to the other endpoint" is_on b
  fi
  check "$line" types "$line"
  echo "      $((SECONDS - at)) s"
  # What follows builds on it.
  if ((failed > 0)); then break; fi
  if [[ $line == "sudo actuator converge" ]] && ((typed < 10)); then
    check "the path is locked" is_locked
    mark
  fi
done < <(commands)
echo "$typed commands, $((SECONDS - begun)) s"
check "the failback has moved it back" is_on a
check "nothing got out since the lock was on" nothing_got_out

echo "$passed passed, $failed failed"
[[ $failed == 0 && $passed -gt 0 ]]
