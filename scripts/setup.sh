#!/usr/bin/env bash
# Sees to it that everything is there that `make demo` and `make test` need. Where it is, this takes
# a moment and changes nothing. What is missing is installed with apt-get, as root or by sudo; where
# that cannot be done, it is named, and this ends with 1. It starts no service and leaves none
# enabled that was not there before.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

# A program (or alternatives to it) and the Debian packages for it.
needed=(
  "nft nftables"
  "wg wireguard-tools"
  "ip iproute2"
  "ping iputils-ping"
  "busybox busybox"
  "unshare util-linux"
  "setpriv util-linux"
  "nsenter util-linux"
  "mount mount"
  "ps procps"
  "jq jq"
  "prometheus prometheus"
  "promtool prometheus"
  "prometheus-alertmanager|alertmanager prometheus-alertmanager"
  "amtool prometheus-alertmanager"
  "cc gcc libc6-dev"
)
# Those of them that Debian starts as a service when it installs them.
services=(prometheus prometheus-alertmanager)

say() { echo "setup: $*"; }
problems=0
problem() {
  say "$*" >&2
  problems=$((problems + 1))
}
has() {
  local program
  for program in ${1//|/ }; do
    if type -P "$program" >/dev/null; then return 0; fi
  done
  return 1
}
is_missing() { [[ " ${missing[*]} " == *" $1 "* ]]; }
add_missing() {
  local program=$1 package
  shift
  if has "$program"; then return 0; fi
  for package in "$@"; do
    if ! is_missing "$package"; then missing+=("$package"); fi
  done
}

# --- how the lab gets its namespaces, and whether this kernel has WireGuard
namespaces=()
try_namespaces() { unshare "$@" true 2>/dev/null && namespaces=("$@"); }
find_namespaces() {
  try_namespaces --user --map-root-user --net || { [[ $EUID == 0 ]] && try_namespaces --net; }
}
kernel_has_wireguard() {
  [[ ${#namespaces[@]} -gt 0 ]] &&
    unshare "${namespaces[@]}" ip link add wg0 type wireguard 2>/dev/null
}
find_missing() {
  missing=()
  local line
  for line in "${needed[@]}"; do
    # shellcheck disable=SC2086 # several words
    add_missing $line
  done
  find_namespaces || true
  if ! kernel_has_wireguard; then add_missing wireguard-go wireguard-go; fi
}

# --- installing
as_root=()
# Services that came with this installation: nobody has asked for them to run.
new_services=()
is_installed() { dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q ' installed$'; }
# Without systemd, RUNLEVEL=1 is how invoke-rc.d is told that no service is to be started now.
apt() { "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
    apt-get -q -y -o Dpkg::Use-Pty=0 "$@" </dev/null; }
# Quiet about units that do not exist yet, or no more.
units() { "${as_root[@]}" systemctl --quiet "$@" "${new_services[@]/%/.service}" 2>/dev/null; }

install_missing() {
  local service status=0
  for service in "${services[@]}"; do
    if is_missing "$service" && ! is_installed "$service"; then new_services+=("$service"); fi
  done
  trap leave_disabled EXIT
  if runs_systemd && [[ ${#new_services[@]} -gt 0 ]]; then units --runtime mask || return 1; fi
  say "installing ${missing[*]}"
  # A mirror that fails and is not needed is no reason to stop.
  apt update || true
  apt install --no-install-recommends "${missing[@]}" || status=$?
  leave_disabled
  trap - EXIT
  return "$status"
}
runs_systemd() { [[ -d /run/systemd/system ]]; }
# Not now, and not at the next boot.
leave_disabled() {
  if [[ ${#new_services[@]} == 0 ]]; then return 0; fi
  if runs_systemd; then units --runtime unmask || true; fi
  if has systemctl; then
    units disable || true
  elif has update-rc.d; then
    local service
    for service in "${new_services[@]}"; do
      "${as_root[@]}" update-rc.d "$service" disable >/dev/null 2>&1 || true
    done
  fi
}
can_become_root() {
  if [[ $EUID == 0 ]]; then return 0; fi
  # Without a terminal nobody can type a password.
  has sudo && { [[ -t 0 ]] || sudo -n true 2>/dev/null; } && as_root=(sudo)
}

find_missing
if [[ ${#missing[@]} -gt 0 ]]; then
  if has apt-get && can_become_root; then
    install_missing || problem "apt-get could not install: ${missing[*]}"
    find_missing
  fi
  if [[ ${#missing[@]} -gt 0 ]]; then
    problem "missing: ${missing[*]} (names of Debian packages); on Debian and Ubuntu, as root:" \
      "apt-get install --no-install-recommends ${missing[*]}"
  fi
fi

# --- Rust
wanted=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
if ! has cargo; then
  problem "cargo is missing; Rust $wanted or later: https://rustup.rs"
else
  found=$(cargo --version | cut -d' ' -f2)
  if [[ $(printf '%s\n' "$wanted" "$found" | sort -V | head -n 1) != "$wanted" ]]; then
    problem "cargo $found is too old; Rust $wanted or later: rustup update, or https://rustup.rs"
  fi
fi

# --- what the kernel lets us do
if [[ ${#namespaces[@]} == 0 ]] && has unshare; then
  problem "this machine does not let you have namespaces of your own: run it as root, or as root:" \
    "sysctl -w user.max_user_namespaces=15000, and where AppArmor restricts them (Ubuntu)" \
    "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0; a container needs --privileged"
fi
if [[ ${#namespaces[@]} -gt 0 ]] && ! kernel_has_wireguard && ! { : <>/dev/net/tun; } 2>/dev/null; then
  problem "no WireGuard in this kernel, and wireguard-go needs /dev/net/tun, which you cannot open;" \
    "as root: modprobe wireguard, or: modprobe tun && chmod 0666 /dev/net/tun"
fi

if [[ $problems -gt 0 ]]; then exit 1; fi
say "everything is there"
