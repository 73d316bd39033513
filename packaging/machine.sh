#!/usr/bin/env bash
# shellcheck disable=SC2154
# Sourced by tests of the package: a clean Debian with a running systemd, in namespaces of its own,
# so nothing of this machine is touched. What is changed in it is in memory. The test says where:
# $work, $base (made once), $root, and $packages_in, which is /packages in there.

# What runs as the first process in there: what systemd wants to find, and systemd.
if [[ ${BASH_SOURCE[0]} == "$0" && ${1:-} == --init ]]; then
  set -e
  base=$2
  packages_in=$3
  mount --make-rprivate /
  # What is changed is in memory, and gone with the machine.
  mount -t tmpfs tmpfs "$4"
  root=$4/root
  mkdir "$4/changes" "$4/work" "$root"
  mount -t overlay -o "lowerdir=$base,upperdir=$4/changes,workdir=$4/work" overlay "$root"
  mkdir "$root/packages"
  mount --bind "$packages_in" "$root/packages"
  ip link set lo up
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
  mount -t tmpfs -o mode=755 tmpfs "$root/run"
  mount -t tmpfs -o mode=755 tmpfs "$root/dev"
  mkdir "$root/dev/net" "$root/dev/pts" "$root/dev/shm"
  for device in null zero full random urandom tty net/tun; do
    : >"$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
  done
  mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts "$root/dev/pts"
  ln -s pts/ptmx "$root/dev/ptmx"
  ln -s /proc/self/fd "$root/dev/fd"
  # Not a chroot: no user namespace can be made in one, and units of others have PrivateUsers=.
  cd "$root"
  mkdir before
  pivot_root . before
  umount -l /before
  rmdir /before
  # systemd hands credentials over by mounts that have to be seen elsewhere in there.
  mount --make-rshared /
  exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
    /lib/systemd/systemd --log-target=console --show-status=no systemd.unit=multi-user.target
fi

packages="nftables,iproute2,netbase,adduser,init-system-helpers,wireguard-tools,wireguard-go,systemd,systemd-sysv,procps,iputils-ping,sudo"

# needs_root TEST: says what is missing.
needs_root() {
  [[ $EUID == 0 ]] || { echo "$1: run as root: it boots a Debian in namespaces" >&2; exit 1; }
  local program
  for program in debootstrap nft jq unshare nsenter; do
    type -P "$program" >/dev/null || { echo "$1: $program is missing: apt-get install $program" >&2; exit 1; }
  done
  mkdir -p "$work"
}
# Kept for the next time; made anew where another one is wanted.
make_base() {
  if [[ -e $base.done && $(<"$base.done") == "$packages" ]]; then return 0; fi
  rm -rf "$base" "$base.done"
  debootstrap --variant=minbase --include="$packages" bookworm "$base" && echo "$packages" >"$base.done"
}
boot() {
  local cgroups
  cgroups=$(findmnt -n -o TARGET -t cgroup2 | head -n 1)
  cgroup=$cgroups/vpn-egress-machine-$$
  mkdir "$cgroup" || return 1
  mkdir -p "$root"
  sh -c 'echo $$ >"$1/cgroup.procs"; shift; exec unshare --mount --pid --net --uts --ipc --cgroup \
    --fork --kill-child -- "$@"' sh "$cgroup" "$PWD/packaging/machine.sh" --init "$base" "$packages_in" "$root" >"$work/boot.log" 2>&1 &
  machine=$!
  trap shut_down EXIT
  eventually has_init && eventually is_up
}
shut_down() {
  # It passes over gentler signals while it waits; its child goes with it.
  kill -KILL "$machine" 2>/dev/null
  wait "$machine" 2>/dev/null
  find "$cgroup" -depth -type d -exec rmdir {} + 2>/dev/null
}
has_init() {
  init=$(pgrep -P "$machine" | head -n 1)
  [[ -n $init ]]
}
inside() { nsenter -t "$init" --mount --pid --net --uts --ipc --cgroup --root --wd -- env -i \
  PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
is_up() { [[ $(inside systemctl is-system-running 2>/dev/null) =~ ^(running|degraded)$ ]]; }
