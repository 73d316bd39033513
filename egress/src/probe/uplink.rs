//! Which devices are uplinks, and do they work?
//!
//! Read from the kernel's tables under `/proc` and from the devices' flags; nothing is sent. The
//! tables are those of the calling thread's network namespace.
//!
//! What the tables do not tell: of a multipath IPv4 default route only the first device is listed;
//! the IPv6 table lists every routing table's routes, so a device with a default route in another
//! one counts as well; and there is no neighbour table for IPv6, so only an IPv4 gateway can be
//! known dead.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

use super::ProbeError;

const IPV4_ROUTES: &str = "/proc/thread-self/net/route";
const IPV6_ROUTES: &str = "/proc/thread-self/net/ipv6_route";
const NEIGHBOURS: &str = "/proc/thread-self/net/arp";

/// The device that leads nowhere. Unreachable IPv6 defaults are listed on it.
const LOOPBACK: &str = "lo";

/// Route flags: in use, and "unreachable" (a default route that stops packets is no uplink).
const RTF_UP: u32 = 0x0001;
const RTF_REJECT: u32 = 0x0200;

const NO_DEFAULT_ROUTE: &str = "no default route";
const NO_CARRIER: &str = "no carrier";
const GATEWAY_SILENT: &str = "gateway does not answer";

/// A network device, and the index that stays when its name is given to another one.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub name: String,
    pub index: u32,
}

/// Whether the host can reach anything at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UplinkVerdict {
    /// One device at least has a carrier and no gateway that is known to be dead.
    Up,
    /// None has; the reason is that of the device that came furthest.
    Down(&'static str),
}

/// Every device that holds a default route, IPv4 or IPv6, without the loopback and those in `not`.
pub fn default_route_devices(not: &[&str]) -> Result<Vec<Device>, ProbeError> {
    let routes = default_routes(&read(IPV4_ROUTES)?);
    let mut names: BTreeSet<String> = routes.into_iter().map(|route| route.device).collect();
    names.extend(default_devices(&read(IPV6_ROUTES)?));
    Ok(names
        .iter()
        .filter(|name| *name != LOOPBACK && !not.contains(&name.as_str()))
        // A device that went away since the tables were read is no uplink any more.
        .filter_map(|name| device(name))
        .collect())
}

/// The device of that name, if there is one now.
pub fn device(name: &str) -> Option<Device> {
    let index = if_nametoindex(name).ok()?;
    Some(Device { name: name.to_owned(), index })
}

/// Judges the uplinks by carrier and by what the neighbour table says of their gateways.
///
/// "no default route" is said of no device at all, which is what [`default_route_devices`] finds
/// then. A device that was named by hand and holds no default route has no gateway to be dead.
pub fn uplink(devices: &[Device]) -> Result<UplinkVerdict, ProbeError> {
    let routes = default_routes(&read(IPV4_ROUTES)?);
    let silent = silent_neighbours(&read(NEIGHBOURS)?);
    Ok(judge(devices, &with_carrier()?, &routes, &silent))
}

fn read(path: &'static str) -> Result<String, ProbeError> {
    match fs::read(path) {
        Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).into_owned()),
        // A kernel without IPv6 has no such table. IPv4's is always there: if it is not, /proc is
        // not what it should be, and no verdict may be read from that.
        Err(source) if source.kind() == ErrorKind::NotFound && path == IPV6_ROUTES => {
            Ok(String::new())
        }
        Err(source) => Err(ProbeError::Table { path, source }),
    }
}

/// The devices that are up and whose link is.
fn with_carrier() -> Result<BTreeSet<String>, ProbeError> {
    let working = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
    Ok(getifaddrs()
        .map_err(ProbeError::Devices)?
        .filter(|address| address.flags.contains(working))
        .map(|address| address.interface_name)
        .collect())
}

fn judge(
    devices: &[Device],
    with_carrier: &BTreeSet<String>,
    routes: &[DefaultRoute],
    silent: &BTreeSet<Neighbour>,
) -> UplinkVerdict {
    if devices.is_empty() {
        return UplinkVerdict::Down(NO_DEFAULT_ROUTE);
    }
    let mut connected =
        devices.iter().filter(|device| with_carrier.contains(&device.name)).peekable();
    if connected.peek().is_none() {
        return UplinkVerdict::Down(NO_CARRIER);
    }
    let gateway_is_dead = |device: &Device| {
        let mut gateways = routes.iter().filter(|route| route.device == device.name).peekable();
        gateways.peek().is_some() && gateways.all(|route| route.is_silent(silent))
    };
    if connected.all(gateway_is_dead) {
        return UplinkVerdict::Down(GATEWAY_SILENT);
    }
    UplinkVerdict::Up
}

/// An IPv4 default route.
#[derive(Debug, Clone, PartialEq, Eq)]
struct DefaultRoute {
    device: String,
    /// None on a link that needs none, as point-to-point ones.
    gateway: Option<Ipv4Addr>,
}

impl DefaultRoute {
    fn is_silent(&self, silent: &BTreeSet<Neighbour>) -> bool {
        self.gateway.is_some_and(|address| {
            silent.contains(&Neighbour { address, device: self.device.clone() })
        })
    }
}

/// An address on a link.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Neighbour {
    address: Ipv4Addr,
    device: String,
}

/// The default routes in `/proc/net/route`, the main table. Lines that are no route are skipped, so
/// is the heading.
fn default_routes(table: &str) -> Vec<DefaultRoute> {
    table.lines().filter_map(default_route).collect()
}

fn default_route(line: &str) -> Option<DefaultRoute> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[device, destination, gateway, flags, _, _, _, mask, ..] = fields.as_slice() else {
        return None;
    };
    let is_default = hex(destination)? == 0 && hex(mask)? == 0;
    if !is_default || !leads_somewhere(hex(flags)?) {
        return None;
    }
    // Addresses are printed as a number in the machine's own order.
    let gateway = Ipv4Addr::from(hex(gateway)?.to_ne_bytes());
    let gateway = (!gateway.is_unspecified()).then_some(gateway);
    Some(DefaultRoute { device: device.to_owned(), gateway })
}

/// The devices of the default routes in `/proc/net/ipv6_route`.
fn default_devices(table: &str) -> BTreeSet<String> {
    table.lines().filter_map(default_device).map(str::to_owned).collect()
}

fn default_device(line: &str) -> Option<&str> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[destination, length, _, _, _, _, _, _, flags, device] = fields.as_slice() else {
        return None;
    };
    let is_default = u128::from_str_radix(destination, 16).ok()? == 0 && hex(length)? == 0;
    (is_default && leads_somewhere(hex(flags)?)).then_some(device)
}

/// The neighbours in `/proc/net/arp` that were asked for and did not answer: their flags are 0.
fn silent_neighbours(table: &str) -> BTreeSet<Neighbour> {
    table.lines().filter_map(silent_neighbour).collect()
}

fn silent_neighbour(line: &str) -> Option<Neighbour> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let &[address, _, flags, _, _, device] = fields.as_slice() else {
        return None;
    };
    let address = address.parse().ok()?;
    let is_silent = hex(flags.strip_prefix("0x")?)? == 0;
    is_silent.then(|| Neighbour { address, device: device.to_owned() })
}

fn hex(text: &str) -> Option<u32> {
    u32::from_str_radix(text, 16).ok()
}

fn leads_somewhere(flags: u32) -> bool {
    flags & RTF_UP != 0 && flags & RTF_REJECT == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(192, 168, 10, 1);

    /// `/proc/net/route` of a host with two uplinks and a tunnel of half-defaults.
    fn ipv4_table() -> String {
        let gateway = u32::from_ne_bytes(GATEWAY.octets());
        let heading =
            "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT  ";
        let half = u32::from_ne_bytes([128, 0, 0, 0]);
        [
            heading.to_owned(),
            format!("eth0\t00000000\t{gateway:08X}\t0003\t0\t0\t100\t00000000\t0\t0\t0   "),
            "ppp0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\t0\t0\t0   ".to_owned(),
            format!("wg0\t00000000\t00000000\t0001\t0\t0\t0\t{half:08X}\t0\t0\t0   "),
            "*\t00000000\t00000000\t0201\t0\t0\t4294967295\t00000000\t0\t0\t0   ".to_owned(),
            "eth0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0   ".to_owned(),
        ]
        .join("\n")
    }

    const IPV6_TABLE: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000064 00000002 00000000 00450003    wlan0
00000000000000000000000000000000 01 00000000000000000000000000000000 00 00000000000000000000000000000000 00000064 00000002 00000000 00000001      wg0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    const ARP_TABLE: &str = "\
IP address       HW type     Flags       HW address            Mask     Device
192.168.10.1     0x1         0x0         00:00:00:00:00:00     *        eth0
192.168.10.7     0x1         0x2         02:00:00:00:00:07     *        eth0
192.168.10.1     0x1         0x2         02:00:00:00:00:01     *        eth1
";

    /// Devices, those of them with a carrier, the silent neighbours, and the verdict.
    type Case<'a> = (&'a [&'a str], &'a [&'a str], &'a BTreeSet<Neighbour>, UplinkVerdict);

    fn devices(names: &[&str]) -> Vec<Device> {
        names
            .iter()
            .zip(1..)
            .map(|(name, index)| Device { name: (*name).to_owned(), index })
            .collect()
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn ipv4_default_routes_are_read() {
        let found = default_routes(&ipv4_table());
        let eth0 = DefaultRoute { device: "eth0".to_owned(), gateway: Some(GATEWAY) };
        let ppp0 = DefaultRoute { device: "ppp0".to_owned(), gateway: None };
        assert_eq!(found, [eth0, ppp0], "half-defaults, unreachable and subnet routes are none");
    }

    #[test]
    fn ipv6_default_routes_are_read() {
        assert_eq!(default_devices(IPV6_TABLE), set(&["wlan0"]));
    }

    #[test]
    fn a_neighbour_is_silent_on_its_own_device_only() {
        let silent = Neighbour { address: GATEWAY, device: "eth0".to_owned() };
        assert_eq!(silent_neighbours(ARP_TABLE), BTreeSet::from([silent]));
    }

    #[test]
    fn uplinks_are_judged_by_the_one_that_came_furthest() {
        let routes = default_routes(&ipv4_table());
        let silent = silent_neighbours(ARP_TABLE);
        let none = BTreeSet::new();
        let table: [Case; 8] = [
            (&[], &["eth0"], &none, UplinkVerdict::Down(NO_DEFAULT_ROUTE)),
            (&["eth0"], &["lo"], &none, UplinkVerdict::Down(NO_CARRIER)),
            (&["eth0"], &["eth0"], &none, UplinkVerdict::Up),
            (&["eth0"], &["eth0"], &silent, UplinkVerdict::Down(GATEWAY_SILENT)),
            (&["eth0", "ppp0"], &["eth0"], &silent, UplinkVerdict::Down(GATEWAY_SILENT)),
            (&["eth0", "ppp0"], &["eth0", "ppp0"], &silent, UplinkVerdict::Up),
            (&["ppp0"], &["ppp0"], &silent, UplinkVerdict::Up),
            // By hand, without a default route: judged by its carrier.
            (&["eth7"], &["eth7"], &silent, UplinkVerdict::Up),
        ];
        for (given, carrier, silent, verdict) in table {
            assert_eq!(
                judge(&devices(given), &set(carrier), &routes, silent),
                verdict,
                "{given:?}"
            );
        }
    }

    #[test]
    fn one_gateway_that_may_live_is_enough() {
        let dead = DefaultRoute { device: "eth0".to_owned(), gateway: Some(GATEWAY) };
        let other = DefaultRoute { gateway: Some(Ipv4Addr::new(192, 168, 10, 2)), ..dead.clone() };
        let verdict = judge(
            &devices(&["eth0"]),
            &set(&["eth0"]),
            &[dead, other],
            &silent_neighbours(ARP_TABLE),
        );
        assert_eq!(verdict, UplinkVerdict::Up);
    }

    #[test]
    fn this_host_can_be_asked() {
        let loopback = device("lo").expect("every host has a loopback device");
        assert_eq!(device("no-such-device"), None);
        let found = default_route_devices(&[]).expect("the tables of this host");
        assert!(!found.contains(&loopback));
        assert!(found.is_sorted());
        for name in found.iter().map(|device| device.name.as_str()) {
            let rest = default_route_devices(&[name]).expect("the tables of this host");
            assert!(rest.iter().all(|device| device.name != name), "{name} was left out");
        }
        let verdict = uplink(&[]).expect("the tables of this host");
        assert_eq!(verdict, UplinkVerdict::Down(NO_DEFAULT_ROUTE));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parsers_panic(
            table in "(([ \\t0-9a-fA-Fx.:*]{0,12}|\\PC{0,6})[ \\t\\n]){0,40}"
        ) {
            default_routes(&table);
            default_devices(&table);
            silent_neighbours(&table);
        }

        #[test]
        fn any_gateway_is_read_back(address in any::<[u8; 4]>().prop_filter("a gateway", |a| *a != [0; 4])) {
            let line = format!(
                "eth0 00000000 {:08X} 0003 0 0 0 00000000 0 0 0", u32::from_ne_bytes(address)
            );
            prop_assert_eq!(
                default_routes(&line),
                [DefaultRoute { device: "eth0".to_owned(), gateway: Some(address.into()) }]
            );
        }
    }
}
