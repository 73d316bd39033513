# shellcheck shell=bash disable=SC2154
# Sourced by tests of packages and images: checks, and a world to be locked in. `inside COMMAND...`
# is theirs: it runs a command on the host under test, which has a network namespace of its own.
#
#   host under test, eth0 10.9.0.2 --- outside: router 10.9.0.1, observer, VPN server a 198.51.100.10
#                                         +--- beyond: VPN server b 203.0.113.10

# The slowest step on a loaded machine is a start of several programs.
limit=120

passed=0
failed=0
# check NAME COMMAND...: one assertion; what it said is shown where it fails.
check() {
  local name=$1
  shift
  if [[ -e $work/said ]]; then mv "$work/said" "$work/said.before"; fi
  if "$@" >"$work/said" 2>&1; then
    passed=$((passed + 1))
    echo "ok    $name"
  else
    failed=$((failed + 1))
    echo "FAIL  $name"
    sed 's/^/      /' "$work/said"
  fi
}
fails() { ! "$@"; }
eventually() {
  local end=$((SECONDS + limit))
  until "$@"; do
    if ((SECONDS >= end)); then return 1; fi
    sleep 0.2
  done
}
more_than() { [[ $("$2") -gt $1 ]]; }

# world KEYS: makes the world, and two provider files in the directory KEYS of the host under test,
# with which wg-quick brings the tunnel up.
world() {
  local keys=$1
  inside ip -batch - <<'END' || return 1
netns add outside
netns add beyond
link add eth0 type veth peer name out0 netns outside
address add 10.9.0.2/24 dev eth0
link set eth0 up
route add default via 10.9.0.1
END
  inside sh -e -s "$keys" <<'END'
keys=$1
cd /
umask 022
mkdir -p "$keys" /run/wireguard
umask 077
wg genkey >"$keys/client.key"
sysctl -q -w net.ipv4.conf.all.src_valid_mark=1
server() {
  wg genkey >"$keys/$1.key"
  ip netns exec "$1" wireguard-go "wg-$1"
  ip netns exec "$1" wg set "wg-$1" listen-port 51820 private-key "$keys/$1.key" \
    peer "$(wg pubkey <"$keys/client.key")" allowed-ips 10.64.0.2/32
  ip -n "$1" address add 10.64.0.1/24 dev "wg-$1"
  ip -n "$1" link set "wg-$1" up
}
provider_file() {
  cat <<FILE
[Interface]
PrivateKey = $(cat "$keys/client.key")
Address = 10.64.0.2/32
Table = off
PostUp = wg set %i fwmark 0xca6c
PostUp = ip -4 route add default dev %i table 51820
PostUp = ip -4 rule add not fwmark 0xca6c table 51820
PostUp = ip -4 rule add table main suppress_prefixlength 0
[Peer]
PublicKey = $(wg pubkey <"$keys/$1.key")
AllowedIPs = 0.0.0.0/0, ::/0
Endpoint = $2:51820
FILE
}
ip -n outside link set lo up
ip -n outside address add 10.9.0.1/24 dev out0
ip -n outside link set out0 up
ip -n outside address add 198.51.100.10/32 dev lo
ip -n outside link add to-beyond type veth peer name uplink netns beyond
ip -n outside address add 10.9.1.2/24 dev to-beyond
ip -n outside link set to-beyond up
ip -n beyond address add 10.9.1.1/24 dev uplink
ip -n beyond link set uplink up
ip -n beyond link set lo up
ip -n beyond address add 203.0.113.10/32 dev lo
ip -n outside route add 203.0.113.10 via 10.9.1.1
# A server that speaks first does so by the address that its client knows.
ip -n outside route add 10.9.0.2/32 dev out0 src 198.51.100.10
ip -n beyond route add default via 10.9.1.2 src 203.0.113.10
ip netns exec outside sysctl -q -w net.ipv4.ip_forward=1
# What has business here: the tunnels, and the echo that asks for an endpoint's host.
ip netns exec outside nft -f - <<NFT
table inet observer {
  counter outside { }
  chain seen {
    type filter hook prerouting priority raw;
    iifname "out0" ip daddr { 198.51.100.10, 203.0.113.10 } udp dport 51820 accept
    iifname "out0" ip daddr { 198.51.100.10, 203.0.113.10 } icmp type echo-request accept
    iifname "out0" meta nfproto ipv4 counter name outside
  }
}
NFT
server outside
server beyond
provider_file outside 198.51.100.10 >"$keys/wg0.conf"
provider_file beyond 203.0.113.10 >"$keys/backup.conf"
END
}
# Traffic that wants out beside the tunnel, for as long as the world is there.
start_traffic() { inside setsid ping -q -i 0.01 -I eth0 203.0.113.9 >/dev/null 2>&1 & }
counters() { jq "[.nftables[] | .counter? // empty | select(.name | test(\"$1\")) | .packets] | add // 0"; }
outside() { inside ip netns exec outside nft -j list counters table inet observer | counters outside; }
blocked() { inside nft -j list counters table inet vpn_egress | counters blocked; }
gets_out() {
  local before
  before=$(outside)
  eventually more_than "$before" outside
}
# From a time at which the lock was on: nothing since, though there was something to block.
mark() {
  outside_then=$(outside)
  blocked_then=$(blocked)
}
nothing_got_out() {
  is_locked || { echo "there is no lock"; return 1; }
  eventually more_than "$blocked_then" blocked || { echo "nothing was there to be blocked"; return 1; }
  blocked_then=$(blocked)
  echo "seen outside: $outside_then then, $(outside) now; blocked: $blocked_then"
  [[ $(outside) == "$outside_then" ]]
}
is_locked() { inside nft list table inet vpn_egress >/dev/null 2>&1; }
metric() {
  inside bash -c 'exec 3<>/dev/tcp/127.0.0.1/9061; printf "GET /metrics HTTP/1.0\r\n\r\n" >&3; cat <&3' |
    grep -F "$1"
}
has_up_cycles() { metric 'vpn_egress_cycles_total{path="media",verdict="up"}' | grep -qv ' 0$'; }
is_guarded() { inside nft list tables | grep -q vpn_egress_guard; }
has_answer() { metric "vpn_egress_endpoint_reachable{endpoint=\"$1\",method=\"handshake\"" | grep -q ' 1$'; }
has_collector() { metric "vpn_egress_collector_success{collector=\"$1\"}" | grep -q " $2\$"; }
all_collectors_work() {
  metric 'vpn_egress_collector_success{' >"$work/collectors"
  cat "$work/collectors"
  [[ -s $work/collectors ]] && ! grep -qv ' 1$' "$work/collectors"
}
