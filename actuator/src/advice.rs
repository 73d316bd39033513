//! What is set up so that it cannot work, though nothing is broken: said by `validate` beside the
//! verdict. Advice changes no exit code, and nothing is sent to find it.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use egress::config::{BringUp, DnsPolicy, PathConfig, Workload};
use egress::probe::{own_addresses, uplink, usual_source_address};
use egress::tunnel;

use crate::surroundings;

const RESOLVERS: &str = "/etc/resolv.conf";
/// Whom systemd-resolved asks, where the file above names only its own address.
const BEHIND_THE_STUB: &str = "/run/systemd/resolve/resolv.conf";
/// No endpoint has it (RFC 3849), so it is routed as the internet is.
const DOCUMENTED_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// What Docker puts into a container's file.
const DOCKER_RESOLVER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
/// The C library's own limit (resolv.conf(5)).
const ASKED: usize = 3;

pub fn of(path: &PathConfig) -> Vec<String> {
    let mut advice = out_of_reach(path);
    advice.extend(unanswered(path));
    advice.extend(names(path));
    advice.extend(half(path));
    advice.extend(surroundings::of(path));
    advice
}

/// A tunnel of both families on a host that has one: half of it is made. A converge says it too.
pub fn half(path: &PathConfig) -> Option<String> {
    let named = path.endpoints.iter().flat_map(|endpoint| &endpoint.tunnel_addresses);
    let left_out = named.map(ipnet::IpNet::addr).find(IpAddr::is_ipv6)?;
    let is_made = path.bring_up == BringUp::Auto && !tunnel::has_ipv6(&path.interface);
    is_made.then(|| {
        format!(
            "this host has no IPv6: {} is brought up without {left_out}; IPv6 is locked all the \
             same. To have it: sysctl net.ipv6.conf.all.disable_ipv6=0, and converge again",
            path.interface
        )
    })
}

/// Endpoints to which this host has no way at all: most often the family that the uplink lacks.
fn out_of_reach(path: &PathConfig) -> Vec<String> {
    // Where it cannot be read, nothing is said.
    let reached = |to: SocketAddr| uplink::has_way(path, to).unwrap_or(true);
    let lacking: Vec<_> =
        path.endpoints.iter().filter(|endpoint| !reached(endpoint.address)).collect();
    let documented = [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), DOCUMENTED_V6.into()];
    let anywhere = documented.iter().any(|any| reached(SocketAddr::new(*any, 51820)));
    if lacking.len() == path.endpoints.len() && !anywhere {
        // No uplink at all: the verdict says so.
        return Vec::new();
    }
    lacking
        .into_iter()
        .map(|endpoint| {
            let (has, other) =
                if endpoint.address.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            format!(
                "endpoint {} ({}) is out of reach: this host has no {has} route to it; give the host \
                 one, or the endpoint the provider's {other} address",
                endpoint.name, endpoint.address
            )
        })
        .collect()
}

/// Who may connect to this host, and would be answered into the tunnel: no route leads back.
fn unanswered(path: &PathConfig) -> Vec<String> {
    let away = path.management.iter().filter(|net| by_tunnel(path, net.addr()).unwrap_or(false));
    away.map(|net| {
        format!(
            "management {net} is routed into {}: unless it is inside the tunnel, it gets no \
             answer; add a route to it: ip route add {net} via ROUTER",
            path.interface
        )
    })
    .collect()
}

/// A resolver that the lock refuses: the host is locked as it should be, and finds no names.
fn names(path: &PathConfig) -> Vec<String> {
    let asked = asked(RESOLVERS);
    match &path.workload {
        // What is behind a bridge has a resolver of its own.
        Workload::Interfaces(_) | Workload::Netns(_) => Vec::new(),
        Workload::Host => asked
            .into_iter()
            .flat_map(|address| {
                let stub = is_stub(address);
                let behind = if stub { self::asked(BEHIND_THE_STUB) } else { vec![address] };
                behind.into_iter().map(move |address| (address, stub))
            })
            .filter(|(address, _)| !address.is_loopback() && !is_let_out(path, *address))
            .map(|(address, stub)| refused(path, address, stub))
            .collect(),
        Workload::Users(_) | Workload::Cgroups(_) => asked
            .into_iter()
            .filter(|address| address.is_loopback() && !path.resolvers.contains(address))
            .map(|address| {
                format!(
                    "names: {RESOLVERS} asks {address}, a resolver of this host, which the workload \
                     may not ask: it would carry queries outside. Give the workload a resolver \
                     inside the tunnel, or lock this one in too and put it into `resolvers`"
                )
            })
            .collect(),
    }
}

/// Docker's resolver is on loopback, which nothing is locked on, and asks for what it answers.
pub fn of_docker(path: &PathConfig, redirected: Option<&str>) -> Option<String> {
    let is_asked = asked(RESOLVERS).contains(&DOCKER_RESOLVER);
    let of_this_path = !matches!(path.workload, Workload::Interfaces(_));
    (is_asked && of_this_path).then(|| {
        let by = redirected.map(|place| format!(" ({place})")).unwrap_or_default();
        format!(
            "names: {RESOLVERS} asks {DOCKER_RESOLVER}, Docker's resolver{by}: it answers from outside \
             of this namespace, and may ask outside the tunnel. Put the provider's resolver into a \
             resolv.conf of the container's own, which is mounted there"
        )
    })
}

fn refused(path: &PathConfig, address: IpAddr, stub: bool) -> String {
    let tunnel = &path.interface;
    if stub {
        format!(
            "names: systemd-resolved asks {address}, which is not in the tunnel: the lock refuses \
             it, and no name is found. Give the tunnel the provider's resolver: \
             resolvectl dns {tunnel} ADDRESS; resolvectl domain {tunnel} '~.'"
        )
    } else {
        format!(
            "names: {RESOLVERS} asks {address}, which is not in the tunnel: the lock refuses it, \
             and no name is found. Put the provider's resolver there, which {tunnel} reaches, or \
             write `dns: allow` and put {address} into `allow`"
        )
    }
}

fn is_stub(address: IpAddr) -> bool {
    ["127.0.0.53", "127.0.0.54"].iter().any(|stub| stub.parse() == Ok(address))
}

/// By the tunnel, or by the lists.
fn is_let_out(path: &PathConfig, address: IpAddr) -> bool {
    let listed =
        path.dns == DnsPolicy::Allow && path.allow.iter().any(|net| net.contains(&address));
    // Where it cannot be told, nothing is said.
    listed || by_tunnel(path, address).unwrap_or(true)
}

fn by_tunnel(path: &PathConfig, address: IpAddr) -> io::Result<bool> {
    let own = usual_source_address(SocketAddr::new(address, 53))?;
    Ok(own_addresses(&path.interface)?.contains(&own))
}

/// The servers that a file in the form of resolv.conf(5) names.
fn asked(file: &str) -> Vec<IpAddr> {
    let text = fs::read_to_string(Path::new(file)).unwrap_or_default();
    servers(&text)
}

fn servers(text: &str) -> Vec<IpAddr> {
    let server = |line: &str| {
        let address = line.trim().strip_prefix("nameserver")?.trim();
        // With a zone, it is on a link: `fe80::1%eth0`.
        address.split('%').next()?.parse().ok()
    };
    text.lines().filter_map(server).take(ASKED).collect()
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::servers;

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        let text = "# nameserver 192.0.2.9\nsearch example\nnameserver 127.0.0.53\n \
                    nameserver\t2001:db8::1\nnameserver nonsense\nnameserver fe80::1%eth0\n\
                    nameserver 192.0.2.4\n";
        let one = |text: &str| text.parse::<IpAddr>().expect("an address");
        let expected = ["127.0.0.53", "2001:db8::1", "fe80::1"].map(one);
        assert_eq!(servers(text), expected);
        assert!(servers("").is_empty());
    }
}
