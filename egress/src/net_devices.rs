//! The network devices of the namespace that the calling thread is in, and how they depend on each
//! other. Reads only.

use std::io;
use std::path::Path;

use crate::config::HostDevice;
use crate::netlink::{Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `linux/if_link.h`
const RTM_GETLINK: u16 = 18;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINK: u16 = 5;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_LINK_NETNSID: u16 = 37;
const IFLA_PROP_LIST: u16 = 52;
const IFLA_ALT_IFNAME: u16 = 53;
/// `struct ifinfomsg`: family, type, index, flags, change.
const HEADER: usize = 16;
const IFF_LOOPBACK: u32 = 0x8;

/// Where userspace implementations put their socket (wg(8)).
const SOCKETS: &str = "/var/run/wireguard";

/// All of them.
pub fn devices() -> io::Result<Vec<HostDevice>> {
    let request = Request::new(RTM_GETLINK, &[0; HEADER]);
    Connection::open(Protocol::Route)?.dump(&request, device)
}

/// The MTU of a device of this network namespace.
pub fn mtu(name: &str) -> io::Result<u32> {
    let request = Request::new(RTM_GETLINK, &[0; HEADER]).text(IFLA_IFNAME, name);
    Connection::open(Protocol::Route)?.ask(request, |message| {
        let attributes = message.attributes(HEADER).ok_or_else(not_understood)?;
        attributes.required(|all| all.u32(IFLA_MTU))
    })
}

fn device(message: Message<'_>) -> io::Result<HostDevice> {
    let number = |at: usize| {
        let bytes = message.payload.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
        bytes.map(u32::from_ne_bytes).ok_or_else(not_understood)
    };
    let attributes = message.attributes(HEADER).ok_or_else(not_understood)?;
    let name = attributes.required(|all| all.text(IFLA_IFNAME).map(str::to_owned))?;
    let info = attributes.nested(IFLA_LINKINFO);
    let kind = info.and_then(|info| info.text(IFLA_INFO_KIND).map(str::to_owned));
    let others = attributes.nested(IFLA_PROP_LIST).map(|list| {
        let names = list.iter().filter(|(kind, _)| *kind == IFLA_ALT_IFNAME);
        names.map(|(_, name)| String::from_utf8_lossy(name).trim_end_matches('\0').to_owned())
    });
    // With this the parent's index is that of another namespace.
    let elsewhere = attributes.get(IFLA_LINK_NETNSID).is_some();
    Ok(HostDevice {
        is_userspace_wireguard: Path::new(SOCKETS).join(format!("{name}.sock")).exists(),
        index: number(4)?,
        alternative_names: others.into_iter().flatten().collect(),
        kind,
        is_loopback: number(8)? & IFF_LOOPBACK != 0,
        parent: attributes.u32(IFLA_LINK).filter(|_| !elsewhere),
        master: attributes.u32(IFLA_MASTER),
        name,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_devices_of_this_host_are_read() {
        let devices = devices().expect("the devices");
        let lo = devices.iter().find(|device| device.name == "lo").expect("a loopback device");
        assert!(lo.is_loopback && lo.parent.is_none() && lo.master.is_none(), "{lo:?}");
        assert!(mtu("lo").expect("its MTU") >= 1280);
        mtu("no-such-device").expect_err("no device");
    }
}
