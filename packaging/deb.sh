#!/usr/bin/env bash
# `make deb`: builds both programs, and the package target/deb/vpn-egress_VERSION_ARCHITECTURE.deb.
# Needs dpkg-deb; what the libraries are called is asked of dpkg-shlibdeps where it is there.
#   REVISION=2   the package's revision, by default 1
#   PROFILE=dev  unoptimised programs, for tests of the package
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/../scripts/environment.sh"

profile=${PROFILE:-release}
target=$(cargo metadata --no-deps --format-version 1 | jq -r .target_directory)
programs=$target/$([[ $profile == dev ]] && echo debug || echo "$profile")
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml)-${REVISION:-1}
architecture=$(dpkg --print-architecture)
root=$target/deb/root
package=$target/deb/vpn-egress_${version}_$architecture.deb
# The same source gives the same package.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || date +%s)}
export SOURCE_DATE_EPOCH

cargo build --locked --profile "$profile" -p exporter -p actuator
rm -rf "$root" "$target/deb/manual"
"$programs/exporter" --manual "$target/deb/manual"
"$programs/actuator" manual "$target/deb/manual"

# put MODE FILE... DIRECTORY
put() {
  local mode=$1 directory=${*: -1}
  shift
  install -d "$root$directory"
  install -m "$mode" "${@:1:$#-1}" "$root$directory"
}
put 0755 "$programs/exporter" "$programs/actuator" /usr/bin
if [[ $profile == dev ]]; then strip --strip-unneeded "$root"/usr/bin/*; fi
put 0644 systemd/*.service systemd/*.timer /lib/systemd/system
while read -r unit; do
  install -D -m 0644 systemd/network-gate.conf "$root/lib/systemd/system/$unit.d/50-vpn-egress.conf"
done <systemd/network-gate.list
put 0644 "$target"/deb/manual/man8/* /usr/share/man/man8
gzip -9n "$root"/usr/share/man/man8/*
completions=$target/deb/manual/completions
put 0644 "$completions"/_* /usr/share/zsh/vendor-completions
put 0644 "$completions"/*.fish /usr/share/fish/vendor_completions.d
for program in exporter actuator; do
  install -D -m 0644 "$completions/$program.bash" "$root/usr/share/bash-completion/completions/$program"
done
doc=/usr/share/doc/vpn-egress
put 0644 README.md CHANGELOG.md DESIGN.md LICENSE-MIT LICENSE-APACHE packaging/copyright "$doc"
put 0644 docs/*.md "$doc/docs"
put 0644 packaging/egress.yml systemd/userspace-wireguard.conf "$doc/examples"
put 0644 alerting-rules/*.yml alerting-rules/runbook.md "$doc/examples/alerting-rules"
put 0644 grafana/dashboards/*.json "$doc/examples/grafana"
install -D -m 0644 packaging/default "$root/etc/default/vpn-egress"
install -d -m 0750 "$root/etc/vpn-egress"
install -d "$root/var/lib/vpn-egress"
# The exporter's unit takes copies of what is in here.
install -d -m 0700 "$root/etc/wireguard"

# shlibdeps looks for debian/control of a source package.
libraries="libc6 (>= 2.36)"
if type -P dpkg-shlibdeps >/dev/null; then
  mkdir -p "$target/deb/debian"
  : >"$target/deb/debian/control"
  libraries=$(cd "$target/deb" && dpkg-shlibdeps -O "$root"/usr/bin/* 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
fi
mkdir -p "$root/DEBIAN"
install -m 0755 packaging/debian/{postinst,prerm,postrm} "$root/DEBIAN"
install -m 0644 packaging/debian/{conffiles,templates} "$root/DEBIAN"
sed -e "s/@VERSION@/$version/; s/@ARCHITECTURE@/$architecture/; s/@LIBRARIES@/$libraries/" \
  -e "s/@SIZE@/$(du -k -s --exclude=DEBIAN "$root" | cut -f1)/" \
  packaging/debian/control >"$root/DEBIAN/control"
find "$root" -type f -path "$root/*" ! -path "$root/DEBIAN/*" -printf '%P\0' | sort -z |
  (cd "$root" && xargs -0 md5sum) >"$root/DEBIAN/md5sums"
dpkg-deb --root-owner-group -Zxz --build "$root" "$package"
