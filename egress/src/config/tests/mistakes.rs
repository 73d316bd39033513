//! Each mistake, and the words and the line it must be told in.

use std::fmt::Write as _;

use super::{OTHER_PUBLIC, PEER, PRIVATE, WG_QUICK, World, edited};
use crate::config::{Config, Host};

/// What to replace in the good configuration, by what, and what the message must contain.
type Case = (&'static str, &'static str, &'static str);

#[rustfmt::skip]
const KEYS: &[Case] = &[
    ("interface: wg0", "interfase: wg0", "egress.yml:3: paths[0]: unknown key `interfase` (did you mean `interface`?); known here: name, interface"),
    ("fwmark: 0xca6c", "name: again", "egress.yml:5: paths[0]: the key `name` is given twice"),
    ("    interface: wg0\n", "", "egress.yml:2: paths[0]: the key `interface` is missing"),
    ("        target: 10.64.0.1\n", "", "egress.yml:23: paths[0].health.probe: the key `target` is missing"),
    ("timeout: 2s", "timeuot: 2s", "egress.yml:24: paths[0].health.probe: unknown key `timeuot`"),
    ("dns: refuse", "1: refuse", "egress.yml:10: paths[0]: unknown key `1`"),
    ("dns: refuse", "<<: {}", "egress.yml:10: paths[0]: unknown key `<<`"),
    ("private_key_file: backup.key", "private_key: ''", "egress.yml:17: paths[0].endpoints[1]: a secret does not belong into this file (its value is not shown); write it to a file of its own, chmod it 0600, and name that with `private_key_file`"),
    ("private_key_file: backup.key", "PresharedKey: ''", "name that with `preshared_key_file`"),
];

#[rustfmt::skip]
const KINDS: &[Case] = &[
    ("name: media", "name: 7", "egress.yml:2: paths[0].name: want text (put it in quotes), found a number"),
    ("allow: [192.168.10.7/24, fd00::/8]", "allow: 10.0.0.0/8", "egress.yml:9: paths[0].allow: want a list, found text"),
    ("dns: refuse", "dns: [refuse]", "egress.yml:10: paths[0].dns: want text, found a list"),
    ("dns: refuse", "dns: !x refuse", "egress.yml:10: paths[0].dns: want text, found a YAML tag"),
    ("uplinks: [eth0, eth1]", "uplinks: eth0", "egress.yml:4: paths[0].uplinks: want `auto` or a list"),
    ("interval: 5s", "interval: 5", "egress.yml:20: paths[0].health.interval: want text"),
];

#[rustfmt::skip]
const VALUES: &[Case] = &[
    ("paths:\n", "host: ''\npaths:\n", "egress.yml:1: host: `` is no host name"),
    ("paths:\n", "host: my gateway\npaths:\n", "egress.yml:1: host: `my gateway` is no host name"),
    ("name: media", "name: ../media", "egress.yml:2: paths[0].name: `../media` is no path name"),
    ("name: backup", "name: back up", "egress.yml:14: paths[0].endpoints[1].name: `back up` is no endpoint name"),
    ("interface: wg0", "interface: averyverylongone", "egress.yml:3: paths[0].interface: `averyverylongone` is no interface name: want 1 to 15"),
    ("interface: wg0", "interface: 'wg*'", "is no interface name"),
    ("interface: wg0", "interface: a/b", "is no interface name"),
    ("interface: wg0", "interface: ''", "is no interface name"),
    ("[eth0, eth1]", "[eth0, 'eth 1']", "egress.yml:4: paths[0].uplinks[1]: `eth 1` is no interface name"),
    ("[eth0, eth1]", "[]", "egress.yml:4: paths[0].uplinks: the list is empty; write `auto`"),
    ("0xca6c", "0", "egress.yml:5: paths[0].fwmark: is no mark; write a number from 1"),
    ("0xca6c", "0x100000000", "egress.yml:5: paths[0].fwmark: is no mark"),
    ("0xca6c", "-1", "egress.yml:5: paths[0].fwmark: is no mark"),
    ("0xca6c", "ca6c", "egress.yml:5: paths[0].fwmark: is no mark"),
    ("dns: refuse", "dns: maybe", "egress.yml:10: paths[0].dns: `maybe` is not known here; write `refuse` or `allow`"),
    ("[192.168.10.5]", "[nas.lan]", "egress.yml:7: paths[0].management[0]: `nas.lan` is a hostname; put the address"),
    ("fd00::/8", "fd00::/129", "egress.yml:9: paths[0].allow[1]: `fd00::/129` is no network"),
    ("[192.0.2.123]", "[pool.ntp.org]", "egress.yml:11: paths[0].ntp[0]: `pool.ntp.org` is a hostname; put the address: a killswitch must not depend on DNS"),
    ("203.0.113.10:51820", "vpn.example.net:51820", "egress.yml:15: paths[0].endpoints[1].address: `vpn.example.net` is a hostname, and no converge has looked up its address yet: run `actuator converge`"),
    ("203.0.113.10:51820", "203.0.113.10", "`203.0.113.10` is no address with a port"),
    ("203.0.113.10:51820", "203.0.113.10:0", "cannot be talked to"),
    ("203.0.113.10:51820", "0.0.0.0:51820", "cannot be talked to"),
    ("interval: 5s", "interval: 0s", "egress.yml:20: paths[0].health.interval: a duration of zero"),
    ("interval: 5s", "settle: 0s", "egress.yml:20: paths[0].health.settle: a duration of zero"),
    ("interval: 5s", "interval: 5 parsecs", "egress.yml:20: paths[0].health.interval: `5 parsecs` is no duration"),
    ("interval: 5s", "interval: -5s", "`-5s` is no duration"),
    ("interval: 5s", "interval: 99999999999999999h", "longer than a day"),
    ("target: 10.64.0.1", "target: 127.0.0.1", "egress.yml:23: paths[0].health.probe.target: `127.0.0.1` cannot answer through a tunnel"),
    (PEER, "short", "egress.yml:16: paths[0].endpoints[1].public_key: not a WireGuard key"),
    ("[10.64.0.2/32]", "[10.64.0.2/33]", "egress.yml:18: paths[0].endpoints[1].tunnel_addresses[0]: `10.64.0.2/33` is no network"),
    ("tunnel_addresses: [10.64.0.2/32]", "persistent_keepalive: 0", "egress.yml:18: paths[0].endpoints[1].persistent_keepalive: keepalives are off"),
    ("tunnel_addresses: [10.64.0.2/32]", "persistent_keepalive: off", "keepalives are off"),
    ("tunnel_addresses: [10.64.0.2/32]", "persistent_keepalive: 65536", "is no keepalive"),
    ("tunnel_addresses: [10.64.0.2/32]", "allowed_ips: []", "leave `allowed_ips` out for everything"),
];

#[rustfmt::skip]
const WORKLOADS: &[Case] = &[
    ("workload: host", "workload: {bridges: [a]}", "egress.yml:6: paths[0].workload: unknown key `bridges`"),
    ("workload: host", "workload: {}", "egress.yml:6: paths[0].workload: `{}` is not known here; write `host`, or one of {interfaces: [..]}"),
    ("workload: host", "workload: {users: [1], cgroups: [a]}", "write `host`, or one of"),
    ("workload: host", "workload: guest", "`guest` is not known here; write `host`"),
    ("workload: host", "workload: {interfaces: []}", "egress.yml:6: paths[0].workload.interfaces: the list is empty; name what is locked in"),
    ("workload: host", "workload: {interfaces: [wg0]}", "egress.yml:6: paths[0].workload: `wg0` is a tunnel; name the device by which"),
    ("workload: host", "workload: {interfaces: [lo]}", "egress.yml:6: paths[0].workload.interfaces[0]: `lo` is the loopback device, which leads nowhere; name the device by which the workload enters, such as its bridge"),
    ("workload: host", "workload: {interfaces: [eth1]}", "egress.yml:6: paths[0].workload: `eth1` is an uplink; name the device by which"),
    ("workload: host", "workload: {interfaces: [br0, br0]}", "egress.yml:6: paths[0].workload: `br0` is listed twice"),
    ("workload: host", "workload: {users: [nobody-of-that-name]}", "egress.yml:6: paths[0].workload.users[0]: there is no user `nobody-of-that-name` on this host; create it"),
    ("workload: host", "workload: {users: [root]}", "egress.yml:6: paths[0].workload.users[0]: root runs the tunnel and the host"),
    ("workload: host", "workload: {users: ['0-7']}", "egress.yml:6: paths[0].workload.users[0]: root runs the tunnel and the host"),
    ("workload: host", "workload: {users: ['7-4294967295']}", "egress.yml:6: paths[0].workload.users[0]: is no user; write a name, a number below 4294967295, or a range of numbers such as"),
    ("workload: host", "workload: {users: ['9-7']}", "egress.yml:6: paths[0].workload.users[0]: is no user"),
    ("workload: host", "workload: {users: [1000, '900-1001']}", "egress.yml:6: paths[0].workload.users[1]: `900-1001` is listed twice"),
    ("workload: host", "workload: {users: [0]}", "root runs the tunnel and the host"),
    ("workload: host", "workload: {users: [4294967295]}", "egress.yml:6: paths[0].workload.users[0]: is no user"),
    ("workload: host", "workload: {cgroups: [/]}", "egress.yml:6: paths[0].workload.cgroups[0]: `/` is no cgroup; write its path below /sys/fs/cgroup"),
    ("workload: host", "workload: {cgroups: [a/../b]}", "is no cgroup"),
    ("workload: host", "workload: {cgroups: ['a\"b']}", "is no cgroup"),
    ("workload: host", "workload: {cgroups: [a, a/b]}", "egress.yml:6: paths[0].workload: `a/b` is listed twice"),
    ("workload: host", "workload: {netns: 'a b'}", "egress.yml:6: paths[0].workload.netns: `a b` is no network namespace; write the name of one"),
    ("workload: host", "workload: {netns: ../../etc}", "egress.yml:6: paths[0].workload.netns: `../../etc` is no network namespace"),
    ("workload: host", "workload: {netns: [media]}", "egress.yml:6: paths[0].workload.netns: want text"),
    ("workload: host", "workload: {netns: media}", "egress.yml:7: paths[0].management: has no meaning for a network namespace, whose only way out is the tunnel"),
    ("workload: host", "workload_mark: 0x2000000", "egress.yml:6: paths[0].workload_mark: has no meaning for `workload: host`"),
    ("workload: host", "resolvers: [127.0.0.1]", "egress.yml:6: paths[0].resolvers: has no meaning for `workload: host`"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 0x3000000", "egress.yml:7: paths[0].workload_mark: is neither one bit, such as 0x2000000, nor a value within its mask"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 0x100/0xff", "egress.yml:7: paths[0].workload_mark: is neither one bit"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 0/0xff0000", "is neither one bit"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 1/2/3", "is neither one bit"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 0x10000/0xff000f", "egress.yml:7: paths[0].workload_mark: has a bit in common with the fwmark 0xca6c"),
    ("workload: host", "workload: {users: [1000]}\n    workload_mark: 0x4", "egress.yml:7: paths[0].workload_mark: has a bit in common with the fwmark 0xca6c"),
];

#[rustfmt::skip]
const FILES: &[Case] = &[
    ("backup.key", "gone.key", "egress.yml:17: paths[0].endpoints[1].private_key_file: the file gone.key does not exist"),
    ("backup.key", ".", "is no regular file"),
    ("interval: 5s", "failover_to: any", "egress.yml:20: paths[0].health.failover_to: `any` is not known here; write `answering` or `next`"),
    ("interval: 5s", "standby_interval: never", "egress.yml:20: paths[0].health.standby_interval: `never` is no duration"),
    ("wg_quick: primary.conf", "wg_quick: primary.conf, probe_interval: 0s", "egress.yml:13: paths[0].endpoints[0].probe_interval: a duration of zero"),
    ("target: 10.64.0.1", "target: 10.64.0.1\n        kind: udp", "egress.yml:24: paths[0].health.probe.kind: `udp` is not known here; write `icmp`, `tcp` or `dns`"),
    ("target: 10.64.0.1", "target: 10.64.0.1\n        kind: tcp", "egress.yml:23: paths[0].health.probe.target: `10.64.0.1` is no address with a port"),
    ("target: 10.64.0.1", "target: '10.64.0.1:0'\n        kind: tcp", "`10.64.0.1:0` is no address with a port"),
    ("target: 10.64.0.1", "target: 'dns.example:53'\n        kind: dns", "egress.yml:23: paths[0].health.probe.target: `dns.example` is a hostname; put the address"),
    ("target: 10.64.0.1", "target: '127.0.0.1:53'\n        kind: dns", "egress.yml:23: paths[0].health.probe.target: `127.0.0.1:53` cannot answer through a tunnel"),
    ("target: 10.64.0.1", "target: 10.64.0.1\n        kind: dns\n        query: a..b", "egress.yml:25: paths[0].health.probe.query: `a..b` is no name"),
    ("target: 10.64.0.1", "target: 10.64.0.1\n        query: a.example", "egress.yml:24: paths[0].health.probe.query: only `kind: dns` asks for a name; remove `query`"),
    ("backup.key", "open.key", "egress.yml:17: paths[0].endpoints[1].private_key_file: the file open.key holds a key and is open to everybody (mode 0644); run: chmod o-rwx open.key"),
    ("primary.conf", "open.conf", "egress.yml:13: paths[0].endpoints[0].wg_quick: the file open.conf holds a key and is open to everybody (mode 0604)"),
    ("backup.key", "bad.key", "bad.key: not a WireGuard key"),
    ("backup.key", "binary.key", "binary.key: is not UTF-8 text"),
    ("backup.key", "''", "want a file's name"),
];

#[rustfmt::skip]
const SECRETS: &[Case] = &[
    ("backup.key", PRIVATE, "egress.yml:17: paths[0].endpoints[1].private_key_file: this looks like a key (not shown)"),
    ("name: media", "name: dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo", "egress.yml:2: paths[0].name: this looks like a key"),
    ("name: media", "name: dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsX", "egress.yml:2: paths[0].name: this looks like a key"),
    ("backup.key\n", "backup.key\n        preshared_key: dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=\n", "egress.yml:18: paths[0].endpoints[1]: a secret"),
    ("dns: refuse", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=: refuse", "egress.yml:10: paths[0]: unknown key the text (not shown)"),
    ("dns: refuse", "dns: !!int dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "egress.yml:10"),
    ("dns: refuse", "dns: !dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo refuse", "egress.yml:10"),
    ("[192.168.10.5]", "dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=", "egress.yml:7: paths[0].management: want a list, found text"),
];

#[rustfmt::skip]
const CONTRADICTIONS: &[Case] = &[
    ("name: backup", "name: primary", "egress.yml:14: paths[0].endpoints[1].name: `primary` is used twice; names must differ (first on line 13)"),
    ("      - name: backup\n", "      - {name: again, wg_quick: primary.conf}\n      - name: backup\n", "egress.yml:14: paths[0].endpoints[1]: endpoint `again` is `primary` again: same private key, peer key and address"),
    ("      - name: backup\n", "      - {name: moved, wg_quick: moved.conf}\n      - name: backup\n", "egress.yml:14: paths[0].endpoints[1]: endpoint `moved` is `primary` again"),
    ("[10.64.0.2/32]", "[10.64.9.9/32]", "egress.yml:14: paths[0].endpoints[1]: endpoints of one path must share their tunnel addresses: `primary` has 10.64.0.2/32 (in primary.conf) but `backup` has 10.64.9.9/32 (in egress.yml)"),
    (PEER, OTHER_PUBLIC, "egress.yml:14: paths[0].endpoints[1]: the peer's key is this host's own"),
    ("{name: primary, wg_quick: primary.conf}", "{name: primary, wg_quick: primary.conf, address: '192.0.2.1:1'}", "egress.yml:13: paths[0].endpoints[0].address: `address` cannot stand beside `wg_quick`"),
    ("[eth0, eth1]", "[eth0, wg0]", "egress.yml:4: paths[0].uplinks[1]: `wg0` is the tunnel itself"),
    ("[eth0, eth1]", "[eth0, eth0]", "egress.yml:4: paths[0].uplinks[1]: `eth0` is listed twice"),
    ("[docker0]", "[docker0, wg0]", "egress.yml:8: paths[0].allow_interfaces[1]: `wg0` is the tunnel itself"),
    ("[eth0, eth1]", "[eth0, lo]", "egress.yml:4: paths[0].uplinks[1]: `lo` is the loopback device, which leads nowhere; name the device that leads to the Internet, or write `auto`"),
    ("[docker0]", "[lo]", "egress.yml:8: paths[0].allow_interfaces[0]: `lo` is the loopback device, which leads nowhere; it is always allowed, so remove it"),
    ("interface: wg0", "interface: lo", "egress.yml:3: paths[0].interface: `lo` is the loopback device, which leads nowhere; name the WireGuard device, such as `wg0`"),
    ("interface: wg0", "interface: all", "egress.yml:3: paths[0].interface: no device can be named `all`, which the kernel keeps for settings of all devices; correct the name"),
    ("[docker0]", "[default]", "egress.yml:8: paths[0].allow_interfaces[0]: no device can be named `default`"),
    ("[docker0]", "[eth1]", "egress.yml:8: paths[0].allow_interfaces[0]: `eth1` is an uplink"),
    ("fd00::/8", "'::/0'", "egress.yml:9: paths[0].allow[1]: `::/0` is everything"),
    ("[192.168.10.5]", "[0.0.0.0/0]", "egress.yml:7: paths[0].management[0]: `0.0.0.0/0` is everything, which would open the lock; name only what is local"),
    ("[192.168.10.5]", "['64:ff9b::/96']", "egress.yml:7: paths[0].management[0]: `64:ff9b::/96` would open the lock"),
    ("fd00::/8", "0.0.0.0/1, 128.0.0.0/1", "egress.yml:9: paths[0].allow[1]: `0.0.0.0/1` would open the lock: with it, `allow` and `management` of this path together hold more than a /8 of the public IPv4 addresses or a /16 of the IPv6 ones; list only the hosts and networks that you use"),
    ("fd00::/8", "'2000::/3'", "egress.yml:9: paths[0].allow[1]: `2000::/3` would open the lock"),
    ("fd00::/8", "11.0.0.0/9, 12.0.0.0/9, 13.0.0.0/32", "egress.yml:9: paths[0].allow[3]: `13.0.0.0/32` would open the lock"),
    ("allow_interfaces: [docker0]\n    allow: [192.168.10.7/24, fd00::/8]", "allow: [11.0.0.0/9, 11.128.0.0/9, 192.168.0.0/16]\n    ntp: [198.51.100.7]", "the key `ntp` is given twice"),
    ("management: [192.168.10.5]\n    allow_interfaces: [docker0]\n    allow: [192.168.10.7/24, fd00::/8]", "management: [12.0.0.1]\n    allow: [11.0.0.0/8, 192.168.0.0/16]", "egress.yml:7: paths[0].management[0]: `12.0.0.1/32` would open the lock"),
    ("timeout: 2s", "timeout: 5s", "egress.yml:24: paths[0].health.probe.timeout: a probe's timeout must be shorter than `interval` (5s)"),
    ("interval: 5s", "interval: 1s", "egress.yml:24: paths[0].health.probe.timeout"),
    ("handshake_stale_after: 3m", "handshake_stale_after: 145s", "egress.yml:21: paths[0].health.handshake_stale_after: `handshake_stale_after` is too short"),
    ("primary.conf", "long.conf", "write more than 180s"),
];

#[test]
fn each_mistake_is_told_with_its_line_and_its_mend() {
    let world = World::new();
    world.file("open.key", PRIVATE, 0o644);
    world.file("open.conf", WG_QUICK, 0o604);
    world.file("bad.key", &PRIVATE[1..], 0o600);
    world.file("binary.key", [0xff, 0xfe], 0o600);
    world.file("moved.conf", WG_QUICK.replace("10.64.0.2", "10.64.9.9"), 0o600);
    world.file("long.conf", format!("{WG_QUICK}PersistentKeepalive = 60\n"), 0o600);
    let cases = [KEYS, KINDS, VALUES, WORKLOADS, FILES, SECRETS, CONTRADICTIONS].concat();
    let mut wrong = String::new();
    for (from, to, want) in cases {
        let message = world.refusal(edited(from, to));
        if !message.contains(want) {
            writeln!(wrong, "{from} -> {to}\n  want: {want}\n  got:  {message}").expect("text");
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

#[test]
fn each_broken_file_is_told_with_its_place_and_its_mend() {
    let world = World::new();
    let path = |name: &str, file: &str| {
        format!(
            "  - name: {name}\n    interface: wg0\n    endpoints:\n      \
             - {{name: x, wg_quick: {file}}}\n"
        )
    };
    let two = |a: &str, b: &str| {
        format!("paths:\n{}{}", path(a, "primary.conf"), path(b, "primary.conf"))
    };
    let deep = format!("paths: {}", "[".repeat(300));
    let cases: &[(&[u8], &str)] = &[
        (b"", "egress.yml: has nothing in it"),
        (b"# nothing\n", "egress.yml: has nothing in it"),
        (b"~", "egress.yml: has nothing in it; begin with `paths:`"),
        (b"- a", "egress.yml:1: want a mapping, found a list"),
        (
            b"path: []",
            "egress.yml:1: unknown key `path` (did you mean `paths`?); known here: paths",
        ),
        (b"\n\npaths: []", "egress.yml:3: paths: the list is empty; describe at least one path"),
        (b"paths:\n", "egress.yml:1: the key `paths` is missing"),
        (b"paths:\n  - name: a\n   interface: b\n", "egress.yml:3: is not valid YAML"),
        (b"paths:\n  - name: \"a\n", "is not valid YAML"),
        (b"paths: *gone", "egress.yml:1: is not valid YAML: unknown anchor"),
        (b"paths: []\n---\npaths: []", "more than one document"),
        (b"paths: &a [*a]", "egress.yml"),
        (b"? [a]\n: b", "egress.yml:1: this form of YAML has no place here"),
        (b"paths: []\n# \xff\n", "egress.yml:2: is not UTF-8 text"),
        (deep.as_bytes(), "egress.yml"),
    ];
    for (yaml, want) in cases {
        let message = world.refusal(yaml);
        assert!(message.contains(want), "want: {want}\ngot:  {message}");
    }
    for (yaml, want) in [
        (
            two("a", "a"),
            "egress.yml:6: paths[1]: `a` is used twice; names must differ (first on line 2)",
        ),
        (
            two("a", "b"),
            "egress.yml:6: paths[1]: a second path locks the whole host, which `a` does",
        ),
        (
            "paths: [{name: a, interface: b, endpoints: []}]".into(),
            "egress.yml:1: paths[0].endpoints: the list is empty; a path needs at least one",
        ),
        (" ".repeat(300_000), "egress.yml: is more than"),
    ] {
        let message = world.refusal(yaml);
        assert!(message.contains(want), "want: {want}\ngot:  {message}");
    }
    let gone = Config::load(&world.0.path().join("gone.yml")).expect_err("missing").to_string();
    assert!(gone.contains("gone.yml: there is no such file; write it, or name another"), "{gone}");
    let directory = Config::load(world.0.path()).expect_err("a directory").to_string();
    assert!(directory.contains("cannot be read"), "{directory}");
}

#[test]
fn a_line_that_would_mislead_is_left_out() {
    let yaml = "\
paths:
  - name: media
    interface: wg0
    endpoints:
      - &one {name: x, wg_quick: primary.conf}
      - *one
";
    let message = World::new().refusal(yaml);
    assert!(
        message.starts_with("egress.yml: paths[0].endpoints[1].name: `x` is used"),
        "{message}"
    );
}

#[test]
fn a_mistake_in_the_providers_file_is_told_with_that_files_line() {
    let world = World::new();
    world.file("bad.conf", WG_QUICK.replace("198.51.100.1", "vpn.example.net"), 0o600);
    let message = world.refusal(edited("primary.conf", "bad.conf"));
    assert!(message.starts_with("bad.conf: `vpn.example.net` is a hostname, and no"), "{message}");
    world.file("bad.conf", WG_QUICK.replace("198.51.100.1", "192.0.2"), 0o600);
    let message = world.refusal(edited("primary.conf", "bad.conf"));
    assert!(message.starts_with("bad.conf:6: `192.0.2:51820` is no address"), "{message}");
}

/// What to replace, and by what.
type Edit = (&'static str, &'static str);

/// The good path, and a second one of users 1001 with these lines changed.
fn two_paths(first: Edit, second: Edit) -> String {
    let other = "  - name: work\n    interface: wg1\n    fwmark: 0xca6d\n    workload: {users: [1001]}\n    \
                 endpoints: [{name: x, wg_quick: primary.conf}]\n";
    assert_eq!(other.matches(second.0).count(), 1, "ambiguous edit: {}", second.0);
    edited(first.0, first.1) + &other.replace(second.0, second.1)
}

#[test]
fn what_two_paths_claim_is_told() {
    let world = World::new();
    let same = ("name: media", "name: media");
    let users = ("workload: host", "workload: {users: [1000, 1001]}");
    let bridge = ("workload: host", "workload: {interfaces: [br0]}");
    let cgroup = ("workload: host", "workload: {cgroups: [a.slice]}");
    world.load(two_paths(same, ("wg1", "wg1"))).expect("two paths that share nothing");
    let cases: &[(Edit, Edit, &str)] = &[
        (
            same,
            ("wg1", "wg0"),
            "egress.yml:26: paths[1].interface: is the tunnel of path `media` already",
        ),
        (
            same,
            ("0xca6d", "0xca6c"),
            "egress.yml:27: paths[1].fwmark: the mark 0xca6c is that of path `media` already",
        ),
        (
            same,
            ("    fwmark: 0xca6d\n", ""),
            "egress.yml:25: paths[1]: the mark 0xca6c is that of path `media` already",
        ),
        (
            same,
            ("{users: [1001]}", "host"),
            "egress.yml:25: paths[1]: a second path locks the whole host",
        ),
        (
            same,
            ("{users: [1001]}", "{interfaces: [eth1]}"),
            "egress.yml:28: paths[1].workload: `eth1` is an uplink",
        ),
        (
            same,
            ("{users: [1001]}", "{interfaces: [wg0]}"),
            "egress.yml:28: paths[1].workload: `wg0` is a tunnel",
        ),
        (
            same,
            ("{users: [1001]}", "{users: [1001]}\n    allow_interfaces: [wg0]"),
            "egress.yml:29: paths[1].allow_interfaces: `wg0` is the tunnel of path `media`; no path may use another's",
        ),
        (
            same,
            ("{users: [1001]}", "{users: [1001]}\n    uplinks: [wg0]"),
            "egress.yml:29: paths[1].uplinks: `wg0` is the tunnel of path `media`",
        ),
        (
            ("[docker0]", "[wg1]"),
            ("wg1", "wg1"),
            "egress.yml:8: paths[0].allow_interfaces: `wg1` is the tunnel of path `work`",
        ),
        (
            same,
            ("{users: [1001]}", "{users: [1001]}\n    workload_mark: 0x8000"),
            "egress.yml:29: paths[1].workload_mark: has a bit in common with the fwmark 0xca6c",
        ),
        (
            ("workload: host", "workload: {users: [1000]}"),
            ("wg1", "wg1"),
            "egress.yml:25: paths[1]: cannot be told from that of path `media`",
        ),
        (
            ("workload: host", "workload: {users: ['1000-1999', 7]}"),
            ("[1001]}", "['1900-2100']}\n    workload_mark: 0x2000000"),
            "egress.yml:28: paths[1].workload: `1900-2100` is locked in by path `media` already",
        ),
        (
            users,
            ("[1001]}", "[1001]}\n    workload_mark: 0x2000000"),
            "egress.yml:28: paths[1].workload: `1001` is locked in by path `media` already",
        ),
        (
            bridge,
            ("{users: [1001]}", "{interfaces: [br0]}\n    workload_mark: 0x2000000"),
            "egress.yml:28: paths[1].workload: `br0` is locked in by path `media` already",
        ),
        (
            cgroup,
            ("{users: [1001]}", "{cgroups: [a.slice/b.service]}\n    workload_mark: 0x2000000"),
            "egress.yml:28: paths[1].workload: `a.slice/b.service` is locked in by path `media` already",
        ),
    ];
    for (first, second, want) in cases {
        let message = world.refusal(two_paths(*first, *second));
        assert!(message.contains(want), "{first:?} {second:?}\nwant: {want}\ngot:  {message}");
    }
}

#[test]
fn a_cgroup_must_exist_when_a_path_is_converged_and_only_then() {
    let world = World::new();
    let yaml = edited("workload: host", "workload: {cgroups: [vpn-egress-none.slice]}");
    world.load(&yaml).expect("a service that is stopped makes no config unreadable");
    let file = world.file("egress.yml", yaml, 0o644);
    let host = Host { devices: &[], uplinks: &|_| Ok(Vec::new()) };
    let message =
        Config::load_for_converge(&file, &|_, _| Err(crate::config::NoAddress::NotPinned), &host)
            .expect_err("refused")
            .to_string();
    let want = "egress.yml:6: paths[0].workload.cgroups[0]: there is no cgroup \
                /sys/fs/cgroup/vpn-egress-none.slice; make it before";
    assert!(message.contains(want), "{message}");
}
