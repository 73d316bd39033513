//! Which devices hold a default route, in any table? What is covered by the watch, for as long as
//! coverage goes by it; never which devices the tunnel uses ([`super::uplink`]).

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;

use super::ProbeError;
use super::uplink::{Device, device};

const IPV4_ROUTES: &str = "/proc/thread-self/net/route";
const IPV6_ROUTES: &str = "/proc/thread-self/net/ipv6_route";

/// The device that leads nowhere. Unreachable IPv6 defaults are listed on it.
const LOOPBACK: &str = "lo";

/// Route flags: in use, and "unreachable" (a default route that stops packets is no uplink).
const RTF_UP: u32 = 0x0001;
const RTF_REJECT: u32 = 0x0200;

/// Every device that holds a default route, IPv4 or IPv6, without the loopback and those in `not`.
pub fn default_route_devices(not: &[&str]) -> Result<Vec<Device>, ProbeError> {
    let mut names = ipv4_devices(&read(IPV4_ROUTES)?);
    names.extend(ipv6_devices(&read(IPV6_ROUTES)?));
    Ok(names
        .iter()
        .filter(|name| *name != LOOPBACK && !not.contains(&name.as_str()))
        // A device that went away since the tables were read is no uplink any more.
        .filter_map(|name| device(name))
        .collect())
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

/// The main table alone. Lines that are no route are skipped, so is the heading.
fn ipv4_devices(table: &str) -> BTreeSet<String> {
    let device = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[device, destination, _, flags, _, _, _, mask, ..] = fields.as_slice() else {
            return None;
        };
        let is_default = hex(destination)? == 0 && hex(mask)? == 0;
        (is_default && leads_somewhere(hex(flags)?)).then(|| device.to_owned())
    };
    table.lines().filter_map(device).collect()
}

/// Every table.
fn ipv6_devices(table: &str) -> BTreeSet<String> {
    let device = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let &[destination, length, _, _, _, _, _, _, flags, device] = fields.as_slice() else {
            return None;
        };
        let is_default = u128::from_str_radix(destination, 16).ok()? == 0 && hex(length)? == 0;
        (is_default && leads_somewhere(hex(flags)?)).then(|| device.to_owned())
    };
    table.lines().filter_map(device).collect()
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

    const IPV4: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010AA8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
ppp0\t00000000\t00000000\t0001\t0\t0\t200\t00000000\t0\t0\t0
wg0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0
*\t00000000\t00000000\t0201\t0\t0\t4294967295\t00000000\t0\t0\t0
eth0\t000AA8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
";

    const IPV6: &str = "\
fd000000000000000000000000000000 40 00000000000000000000000000000000 00 00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 fe800000000000000000000000000001 00000064 00000002 00000000 00450003    wlan0
00000000000000000000000000000000 01 00000000000000000000000000000000 00 00000000000000000000000000000000 00000064 00000002 00000000 00000001      wg0
00000000000000000000000000000000 00 00000000000000000000000000000000 00 00000000000000000000000000000000 ffffffff 00000001 00000000 00200200       lo
";

    #[test]
    fn default_routes_of_both_families_are_read() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let expected: BTreeSet<String> = set(&["eth0", "ppp0"]);
        assert_eq!(ipv4_devices(IPV4), expected, "half-defaults, unreachable and subnets are none");
        assert_eq!(ipv6_devices(IPV6), set(&["wlan0"]));
        let found = default_route_devices(&[]).expect("the tables of this host");
        assert!(found.is_sorted() && found.iter().all(|device| device.name != LOOPBACK));
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parsers_panic(
            table in "(([ \\t0-9a-fA-Fx.:*]{0,12}|\\PC{0,6})[ \\t\\n]){0,40}"
        ) {
            ipv4_devices(&table);
            ipv6_devices(&table);
        }
    }
}
