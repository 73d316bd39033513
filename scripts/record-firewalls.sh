#!/usr/bin/env bash
# Records what other firewalls load, for tests/fixtures/firewalls: each program itself, as Debian has
# it, in namespaces of its own. Nothing of this host is changed. As root, with
#   apt-get install --no-install-recommends iptables ufw firewalld dbus docker.io busybox
# The host they see is the lab's: eth0 is 10.0.0.2, a container at 172.20.0.2 behind the bridge
# br-lab, its port 80 published as 8080, wg0 the way to the world.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
fixtures=$PWD/tests/fixtures/firewalls

# In the namespaces: an uplink, and copies of whatever the programs write to.
prepare() {
  ip link set lo up
  ip link add eth0 type veth peer name peer
  ip address add 10.0.0.2/24 dev eth0
  ip link set eth0 up
  ip link add br-lab type bridge
  ip address add 172.20.0.1/24 dev br-lab
  ip link set br-lab up
  work=$(mktemp -d)
  mount -t tmpfs tmpfs "$work"
  local dir
  for dir in /etc /var /usr/lib; do
    mkdir -p "$work$dir/upper" "$work$dir/work"
    mount -t overlay overlay -o "lowerdir=$dir,upperdir=$work$dir/upper,workdir=$work$dir/work" "$dir"
  done
  mount -t tmpfs tmpfs /run
}
await() {
  local try
  for try in {1..100}; do if "$@" >/dev/null 2>&1; then return 0; fi; sleep 0.2; done
  echo "not ready: $*" >&2
  return 1
}

record_docker() {
  dockerd --data-root "$work/data" --exec-root "$work/exec" --pidfile "$work/pid" \
    --host "unix://$work/docker.sock" --storage-driver vfs --bridge br-lab >"$work/log" 2>&1 &
  export DOCKER_HOST=unix://$work/docker.sock
  await docker info
  local image=$work/image library
  mkdir -p "$image/bin"
  cp "$(type -P busybox)" "$image/bin/busybox"
  for library in $(ldd "$image/bin/busybox" | grep -o '/lib[^ ]*'); do
    install -D "$library" "$image$library"
  done
  tar -C "$image" -c . | docker import - web >/dev/null
  docker run --detach --publish 8080:80 web /bin/busybox httpd -f >/dev/null
  echo "# $(dockerd --version), \`--bridge br-lab\`, a container with \`--publish 8080:80\`."
  nft --stateless list ruleset
}

record_ufw() {
  {
    ufw allow 22/tcp
    ufw route allow in on br-lab
    ufw --force enable
  } >/dev/null
  echo "# $(ufw version | head -n 1), \`ufw allow 22/tcp\`, \`ufw route allow in on br-lab\`,"
  echo "# \`ufw enable\`. Some of its rules are xtables matches that nft can list and not load: these"
  echo "# are its rules as iptables-restore-translate writes them."
  translated iptables
  translated ip6tables
}
translated() {
  "$1-save" >"$work/$1"
  "$1-restore-translate" --file "$work/$1" | grep -v '^#'
}

record_firewalld() {
  mkdir -p /run/dbus
  dbus-daemon --system --nopidfile --fork
  firewalld --nofork --nopid >"$work/log" 2>&1 &
  await firewall-cmd --state
  firewall-cmd --quiet --zone=trusted --add-interface=br-lab
  echo "# firewalld $(firewall-cmd --version), \`firewall-cmd --zone=trusted --add-interface=br-lab\`."
  nft --stateless list ruleset
}

record_nftables-service() {
  sed 's/.*#tcp dport.*/tcp dport 22 accept/' /usr/share/doc/nftables/examples/workstation.nft |
    nft -f -
  echo "# $(nft --version): its example workstation.nft, ssh permitted, as nftables.service loads"
  echo "# /etc/nftables.conf: every rule of the host is flushed first."
  echo "flush ruleset"
  nft --stateless list ruleset
}

if [[ ${1:-} == inside ]]; then
  prepare >&2
  "record_$2"
  exit
fi
mkdir -p "$fixtures"
for firewall in docker ufw firewalld nftables-service; do
  echo "recording $firewall" >&2
  {
    echo "# Recorded by scripts/record-firewalls.sh; do not edit."
    unshare --net --mount --pid --fork --kill-child --mount-proc "$0" inside "$firewall" |
      grep -v '^# Warning'
  } >"$fixtures/$firewall.nft.new"
  mv "$fixtures/$firewall.nft.new" "$fixtures/$firewall.nft"
done
