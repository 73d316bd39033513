#!/usr/bin/env bash
# `make deb-test`: installs, upgrades, removes and purges the package in a clean Debian with a
# running systemd, under traffic that wants out, and counts outside what got there. As root; needs
# debootstrap, nft and /dev/net/tun; takes minutes, most of them the first time (a Debian is made in
# target/deb-test). Everything is in namespaces of its own: nothing of this machine is touched.
#   PROFILE=dev   unoptimised programs: built sooner
#   PACKAGES=DIR  revisions 1 and 2 of the package, built before: nothing is built
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
work=$target/deb-test
base=$work/base
root=$work/machine
source packaging/machine.sh
source packaging/world.sh

config() {
  inside sh -c 'cat >/etc/vpn-egress/egress.yml' <<'END'
paths:
  - name: media
    interface: wg0
    endpoints:
      - {name: primary, wg_quick: /etc/wireguard/wg0.conf}
      - {name: backup, wg_quick: /etc/wireguard/backup.conf}
    health:
      interval: 1s
      probe: {target: 10.64.0.1, timeout: 500ms}
END
}
rules() { inside nft list table inet vpn_egress | sed -E 's/packets [0-9]+ bytes [0-9]+//'; }
same_rules() { diff <(echo "$rules_then") <(rules); }
is_active() { [[ $(inside systemctl is-active "$1") == active ]]; }
# What a boot finds after somebody has removed the config; the walls are taken down to see it.
locks_without_config() {
  inside sh -e <<'END'
systemctl stop vpn-egress-actuator
mv /etc/vpn-egress/egress.yml /etc/vpn-egress/away
nft flush ruleset
# A copy: the unit itself refuses to be stopped, so that nothing stops the network with it.
sed /RefuseManualStop/d /lib/systemd/system/vpn-egress-killswitch.service >/run/systemd/system/boot-again.service
systemctl daemon-reload
systemctl start boot-again
rm /run/systemd/system/boot-again.service
mv /etc/vpn-egress/away /etc/vpn-egress/egress.yml
nft list table inet vpn_egress >/dev/null
systemctl start vpn-egress-actuator
END
}
says_mend() { inside journalctl -q --no-pager -u vpn-egress-exporter | grep -F CAP_DAC_OVERRIDE; }
install_package() { inside apt-get install -q -y --no-install-recommends "/packages/$1"; }
status() { inside dpkg-query -W -f '${Status} ${Version}' vpn-egress 2>/dev/null; }
has_status() { [[ $(status) == "$1" ]]; }
another_than() { [[ $(pid_of "$2") != "$1" && $(pid_of "$2") != 0 ]]; }
pid_of() { inside systemctl show -p MainPID --value "$1"; }

needs_root deb-test
packages_in=${PACKAGES:-$target/deb}
if [[ -z ${PACKAGES:-} ]]; then
  packaging/deb.sh && REVISION=2 packaging/deb.sh || exit 1
fi
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)
first=vpn-egress_$version-1_$(dpkg --print-architecture).deb
second=vpn-egress_$version-2_$(dpkg --print-architecture).deb
make_base || exit 1
boot || { echo "deb-test: the machine did not start"; cat "$work/boot.log"; exit 1; } >&2
world /etc/wireguard || { echo "deb-test: the world could not be built" >&2; exit 1; }
start_traffic

check "the observer sees what gets out of a host without a lock" gets_out
check "installs" install_package "$first"
check "locks nothing by itself" fails is_locked
check "traffic still gets out" gets_out
check "starts nothing without a config" fails is_active vpn-egress-actuator
check "has manual pages" inside test -s /usr/share/man/man8/actuator-converge.8.gz
check "has a token that others cannot read" inside sh -c \
  '[ "$(stat -c "%a %U %G" /etc/vpn-egress/actuator.token)" = "640 root vpn-egress" ]'

config
check "wg-quick brings the tunnel up" inside wg-quick up wg0
check "converges" inside actuator converge
check "is locked" is_locked
mark
check "the daemons start" inside systemctl start vpn-egress-actuator vpn-egress-exporter
# By a process of its own, which the sandbox has to let be started.
check "copies of the walls are held that nobody else can flush" eventually is_guarded
# As shipped: it has its keys, and asks endpoints with them. This world's WireGuard is a userspace one,
# whose socket is root's alone.
check "the exporter, as a user of its own, asks the other endpoint" eventually has_answer backup
check "it cannot ask the device" eventually has_collector wireguard 0
check "and says why, with the mend" says_mend
inside install -D -m 0644 -t /etc/systemd/system/vpn-egress-exporter.service.d \
  /usr/share/doc/vpn-egress/examples/userspace-wireguard.conf
inside systemctl daemon-reload
check "with the drop-in it starts again" inside systemctl restart vpn-egress-exporter
check "and finds the path up" eventually has_up_cycles
check "every collector of it works" all_collectors_work
check "the exporter is not root" inside sh -c \
  '[ "$(stat -c %U "/proc/$(systemctl show -p MainPID --value vpn-egress-exporter)")" = vpn-egress ]'
check "the health check agrees" inside systemctl start vpn-egress-validate.service
check "nothing gets out under the lock" nothing_got_out

rules_then=$(rules)
daemon_then=$(pid_of vpn-egress-actuator)
check "is upgraded under traffic" install_package "$second"
check "the new version is there" has_status "install ok installed $version-2"
check "the daemon is the new one" eventually another_than "$daemon_then" vpn-egress-actuator
check "and active" eventually is_active vpn-egress-actuator
check "the exporter too" eventually is_active vpn-egress-exporter
check "the lock is the same" same_rules
check "nothing got out meanwhile" nothing_got_out
daemon_then=$(pid_of vpn-egress-actuator)
check "a daemon killed outright is started anew" inside systemctl kill --kill-whom=main --signal=KILL vpn-egress-actuator
check "and is another one" eventually another_than "$daemon_then" vpn-egress-actuator
check "which is active" eventually is_active vpn-egress-actuator
check "the boot's unit locks by the state where the config is gone" locks_without_config
mark
check "a daemon that is stopped leaves the lock" inside systemctl stop vpn-egress-actuator
check "which holds" nothing_got_out
inside systemctl start vpn-egress-actuator

check "is not removed where nobody can be asked" fails inside apt-get remove -q -y vpn-egress
check "and it is said how it can be" grep -q "VPN_EGRESS_REMOVE=unlock apt-get remove" "$work/said.before"
# Asked as a terminal does.
answer() { printf '%s\n' "$1" | inside DEBIAN_FRONTEND=teletype apt-get remove -q -y vpn-egress; }
check "is not removed by who answers no" fails answer no
check "is there as before" has_status "install ok installed $version-2"
check "its daemon too" is_active vpn-egress-actuator
check "and the lock" same_rules
check "nothing got out meanwhile" nothing_got_out

check "is removed by who answers yes" answer yes
check "is gone" has_status "deinstall ok config-files $version-2"
check "the lock is off" fails is_locked
check "and traffic gets out again" gets_out
check "the daemons are gone" fails inside pgrep -x "actuator|exporter"
check "the tunnel is left as it was" inside ip link show wg0

check "is installed again" install_package "$second"
check "converges again" inside actuator converge
check "is locked again" is_locked
check "is purged where the environment says unlock" inside VPN_EGRESS_REMOVE=unlock apt-get purge -q -y vpn-egress
check "nothing of it is known" fails status
check "the lock is off again" fails is_locked
check "state and token are gone" inside sh -c \
  '[ ! -e /var/lib/vpn-egress ] && [ ! -e /etc/vpn-egress/actuator.token ]'
check "what a person wrote is not" inside sh -c \
  '[ -s /etc/vpn-egress/egress.yml ] && [ -s /etc/wireguard/wg0.conf ]'
check "no unit is left" fails inside sh -c 'ls -d /etc/systemd/system/*.wants/vpn-egress* 2>/dev/null'

echo "package: $(stat -c %s "$packages_in/$second") bytes"
echo "$passed passed, $failed failed"
[[ $failed == 0 && $passed -gt 0 ]]
