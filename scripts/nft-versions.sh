#!/usr/bin/env bash
# Fetches the versions of nft that Debian's suites have besides this machine's own, each with the
# libraries that it needs, for `cargo test -p lab --test nft_versions`. Installs nothing: the packages
# are unpacked below the target directory. Where they cannot be had it says so and ends with 0; the
# test then says which versions it went without.
set -uo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

suites=(trixie forky)
packages=(nftables libnftables1 libnftnl11 libmnl0 libjansson4 libxtables12 libgmp10 libedit2
  libbsd0 libmd0 libtinfo6 libc6)
keys=/usr/share/keyrings/debian-archive-keyring.gpg
mirror=http://deb.debian.org/debian

say() { echo "nft-versions: $*"; }
target=${CARGO_TARGET_DIR:-target}/nft
mkdir -p "$target" && target=$(cd "$target" && pwd) || exit 1

fetch() {
  local suite=$1 work=$target/$1.part loader
  rm -rf "$work"
  mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/debs" "$work/root"
  echo "deb [signed-by=$keys] $mirror $suite main" >"$work/sources.list"
  local apt=(timeout 300 apt-get -qq -o "Dir::Etc::sourcelist=$work/sources.list"
    -o Dir::Etc::sourceparts=/dev/null -o "Dir::State::Lists=$work/lists"
    -o "Dir::Cache=$work/cache" -o Dir::State::status=/dev/null -o APT::Sandbox::User=root)
  "${apt[@]}" update && (cd "$work/debs" && "${apt[@]}" download "${packages[@]}") || return 1
  local deb
  for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root" || return 1; done
  rm -rf "$work/debs" "$work/lists" "$work/cache" "$target/$suite"
  mv "$work" "$target/$suite"
  loader=$(find "$target/$suite/root" -name 'ld-linux*.so.*' | head -n 1)
  printf '#!/bin/sh\nexec %s --library-path %s %s "$@"\n' "$loader" \
    "$(dirname "$(find "$target/$suite/root" -name 'libnftables.so.1')")" \
    "$target/$suite/root/usr/sbin/nft" >"$target/$suite/nft"
  chmod +x "$target/$suite/nft"
}

for suite in "${suites[@]}"; do
  if "$target/$suite/nft" --version >/dev/null 2>&1; then
    say "$suite: $("$target/$suite/nft" --version), already there"
  elif ! type -P apt-get dpkg-deb >/dev/null || [[ ! -f $keys ]]; then
    say "$suite: NOT there: only Debian's apt can fetch it"
  elif fetch "$suite" >/dev/null; then
    say "$suite: $("$target/$suite/nft" --version)"
  else
    say "$suite: NOT there: its packages could not be fetched"
  fi
done
