//! By which address of its own does this host send on an uplink?
//!
//! Asked of the kernel's routing by a socket that is connected and never written to: nothing is
//! sent.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use nix::ifaddrs::{InterfaceAddress, getifaddrs};
use nix::sys::socket::SockaddrStorage;
use socket2::{Domain, Protocol, Socket, Type};

/// The source address that `device` would give to a packet for `to`. Bound to the device, so that
/// the answer is the uplink's also where all other routes lead into the tunnel.
pub fn source_address(device: &str, to: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    socket.bind_device(Some(device.as_bytes()))?;
    connected(&socket, to)
}

/// The source address that a packet of any program would have, by whatever way it goes.
pub fn usual_source_address(to: SocketAddr) -> io::Result<IpAddr> {
    let socket = Socket::new(Domain::for_address(to), Type::DGRAM, Some(Protocol::UDP))?;
    connected(&socket, to)
}

/// The addresses that a device has now; none where there is no such device.
pub fn own_addresses(device: &str) -> io::Result<Vec<IpAddr>> {
    let of_it = |found: InterfaceAddress| {
        let storage = found.address.filter(|_| found.interface_name == device)?;
        let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    };
    Ok(getifaddrs()?.filter_map(of_it).collect())
}

/// Every address of this host, with its device and its network.
pub fn networks() -> io::Result<Vec<(String, IpNet)>> {
    let ip = |storage: &SockaddrStorage| {
        let v4 = storage.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| storage.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    };
    let network = |found: InterfaceAddress| {
        let (address, mask) = (ip(&found.address?)?, ip(&found.netmask?)?);
        Some((found.interface_name, IpNet::with_netmask(address, mask).ok()?))
    };
    Ok(getifaddrs()?.filter_map(network).collect())
}

/// Sends nothing: a datagram socket that is connected has its source.
fn connected(socket: &Socket, to: SocketAddr) -> io::Result<IpAddr> {
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(any, 0).into())?;
    socket.connect(&to.into())?;
    let own = socket.local_addr()?.as_socket();
    own.map(|own| own.ip()).ok_or_else(|| io::Error::other("an address of another family"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_the_address_of_a_device() {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 51820));
        assert_eq!(source_address("lo", to).expect("the loopback"), Ipv4Addr::LOCALHOST);
        assert!(source_address("no-such-device", to).is_err());
        assert_eq!(usual_source_address(to).expect("a source"), Ipv4Addr::LOCALHOST);
        assert!(own_addresses("lo").expect("a list").contains(&Ipv4Addr::LOCALHOST.into()));
        assert!(own_addresses("no-such-device").expect("a list").is_empty());
    }
}
