//! Which way packets would go, asked of the kernel by sockets that are connected and never written
//! to: by whichever rules and routes, ours or another's. Nothing is sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use socket2::{Domain, Protocol, Socket, Type};

use super::{Family, Link, Selector, Tunnel};

/// Far away, in either half of IPv4: what is asked about them holds for the Internet. Nothing is sent.
const FAR_V4: [Ipv4Addr; 2] = [Ipv4Addr::new(56, 255, 255, 254), Ipv4Addr::new(203, 0, 113, 254)];
const FAR_V6: [Ipv6Addr; 1] = [Ipv6Addr::new(0x2001, 0xdb8, 0xffff, 0, 0, 0, 0, 0xfffe)];

/// What routes wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wrong {
    /// What belongs into the tunnel goes elsewhere, or nowhere.
    Past(IpAddr),
    /// The tunnel's own packets go into the tunnel.
    Loop(SocketAddr),
}

/// What routes wrong, if anything. `servers` are the endpoints. As another user nothing can be asked;
/// what users send is marked, and the way of the mark can.
pub fn wrong_way(tunnel: &Tunnel, link: &Link, servers: &[SocketAddr]) -> Option<Wrong> {
    // In a namespace of its own the tunnel's packets are not sent from where this is asked.
    if tunnel.netns().is_none()
        && let Some(looped) = looping(tunnel, link, servers)
    {
        return Some(Wrong::Loop(looped));
    }
    let mark = match tunnel.selector {
        Selector::Host | Selector::Netns(_) => None,
        Selector::Marked(mark) => Some(mark.value()),
        Selector::Users(_) if tunnel.workload_mark.mask() == 0 => return None,
        Selector::Users(_) => Some(tunnel.workload_mark.value()),
    };
    // Any port: nothing is sent to it.
    let goes_past =
        |to: &IpAddr| !source(SocketAddr::new(*to, 9), mark).is_ok_and(|from| link.has(from));
    tunnel.families().flat_map(|family| far(tunnel, family)).find(goes_past).map(Wrong::Past)
}

/// An endpoint that the tunnel's own packets would be sent to by the tunnel.
fn looping(tunnel: &Tunnel, link: &Link, servers: &[SocketAddr]) -> Option<SocketAddr> {
    let goes_in = |server: &&SocketAddr| {
        source(**server, Some(tunnel.fwmark)).is_ok_and(|from| link.has(from))
    };
    servers.iter().find(goes_in).copied()
}

/// Where the tunnel is to lead, by a few addresses of it.
fn far(tunnel: &Tunnel, family: Family) -> Vec<IpAddr> {
    let known: Vec<IpAddr> = match family {
        Family::V4 => FAR_V4.map(IpAddr::V4).into(),
        Family::V6 => FAR_V6.map(IpAddr::V6).into(),
    };
    let routed = |ip: &IpAddr| tunnel.routes.iter().any(|net| net.contains(ip));
    let far: Vec<IpAddr> = known.into_iter().filter(routed).collect();
    if far.is_empty() { tunnel_hosts(tunnel, family) } else { far }
}

/// Where only some networks lead into the tunnel: the first host of the first of them.
fn tunnel_hosts(tunnel: &Tunnel, family: Family) -> Vec<IpAddr> {
    let mut nets = tunnel.routes.iter().filter(|net| Family::of(net.addr()) == family);
    nets.next().and_then(|net: &IpNet| net.hosts().next()).into_iter().collect()
}

/// The address that this host would send from.
fn source(to: SocketAddr, mark: Option<u32>) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    socket.connect(&to.into())?;
    let own = socket.local_addr()?.as_socket();
    own.map(|own| own.ip()).ok_or_else(|| io::Error::other("an address of another family"))
}
