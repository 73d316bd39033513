//! The routing rules and the routes of a table, as the kernel has them. Read over netlink: nothing is
//! started to find that nothing has changed.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use nix::errno::Errno;

use super::Family;
use crate::netlink::{Attributes, Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `linux/fib_rules.h`.
const RTM_GETRULE: u16 = 34;
const RTM_GETROUTE: u16 = 26;
/// Of `struct fib_rule_hdr` and of `struct rtmsg`.
const BODY: usize = 12;
/// Where the former has the action, and both have the flags.
const ACTION: usize = 7;
const FLAGS: usize = 8;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 0x2;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_SUPPRESS_PREFIXLEN: u16 = 14;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_PAD: u16 = 18;
const FRA_UID_RANGE: u16 = 20;
const FRA_PROTOCOL: u16 = 21;
const FRA_SUPPRESS_IFGROUP: u16 = 13;
/// No prefix or group is suppressed.
const NONE: u32 = u32::MAX;
const RT_TABLE_MAIN: u32 = 254;

const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_TABLE: u16 = 15;
/// A copy that was made for one destination.
const RTM_F_CLONED: u32 = 0x200;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The rules of a family that choose a table by priority, mark and user alone, in the words that `ip
/// rule add` takes.
pub fn rules(family: Family) -> io::Result<Vec<String>> {
    let mut body = [0; BODY];
    body[0] = number(family);
    let request = Request::new(RTM_GETRULE, &body);
    let dumped = Connection::open(Protocol::Route)?.dump(&request, |message| rule(&message));
    let rules = match dumped {
        // A kernel without this family has none.
        Err(error) if is(&error, Errno::EOPNOTSUPP) || is(&error, Errno::EAFNOSUPPORT) => {
            Vec::new()
        }
        other => other?,
    };
    Ok(rules.into_iter().flatten().collect())
}

/// `None`: it asks for more than the rules of ours do.
fn rule(message: &Message<'_>) -> io::Result<Option<String>> {
    let attributes = message.attributes(BODY).ok_or_else(not_understood)?;
    Ok(rule_words(message.payload, attributes))
}

fn rule_words(header: &[u8], attributes: Attributes<'_>) -> Option<String> {
    const KNOWN: [u16; 9] = [
        FRA_PRIORITY,
        FRA_FWMARK,
        FRA_FWMASK,
        FRA_SUPPRESS_PREFIXLEN,
        FRA_SUPPRESS_IFGROUP,
        FRA_TABLE,
        FRA_PAD,
        FRA_UID_RANGE,
        FRA_PROTOCOL,
    ];
    let [_, to, from, tos] = *header.first_chunk::<4>()?;
    let all = attributes.iter().all(|(kind, _)| KNOWN.contains(&kind));
    if !all || header[ACTION] != FR_ACT_TO_TBL || [to, from, tos] != [0; 3] {
        return None;
    }
    let flags = u32::from_ne_bytes(header.get(FLAGS..FLAGS + 4)?.try_into().ok()?);
    let suppressed = |kind| attributes.u32(kind).filter(|value| *value != NONE);
    if suppressed(FRA_SUPPRESS_IFGROUP).is_some() {
        return None;
    }
    let mut words = vec![format!("priority {}", attributes.u32(FRA_PRIORITY).unwrap_or(0))];
    words.extend((flags & FIB_RULE_INVERT != 0).then(|| "not".to_owned()));
    let bits = attributes.u32(FRA_FWMASK);
    // No mark with a mask is a mark of zero.
    let mark = attributes.u32(FRA_FWMARK).or(bits.map(|_| 0));
    words.extend(mark.map(|mark| match bits.unwrap_or(u32::MAX) {
        u32::MAX => format!("fwmark {mark:#x}"),
        bits => format!("fwmark {mark:#x}/{bits:#x}"),
    }));
    if let Some(users) = attributes.get(FRA_UID_RANGE) {
        let number = |at: usize| users.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        words.push(format!("uidrange {}-{}", number(0)?, number(4)?));
    }
    let table = attributes.u32(FRA_TABLE).unwrap_or(u32::from(header[4]));
    words.push(match table {
        RT_TABLE_MAIN => "lookup main".to_owned(),
        _ => format!("lookup {table}"),
    });
    let length = suppressed(FRA_SUPPRESS_PREFIXLEN);
    words.extend(length.map(|length| format!("suppress_prefixlength {length}")));
    Some(words.join(" "))
}

/// The routes of a table that leave by one device, each with the index of that. None where nobody has
/// put anything into it yet.
pub fn routes(table: u32, family: Family) -> io::Result<Vec<(IpNet, u32)>> {
    let mut body = [0; BODY];
    body[0] = number(family);
    let request = Request::new(RTM_GETROUTE, &body).bytes(RTA_TABLE, &table.to_ne_bytes());
    let mut kernel = Connection::open(Protocol::Route)?;
    // A router may have a million routes in other tables.
    kernel.filter_in_kernel();
    match kernel.dump(&request, |message| route(&message, table, family)) {
        Err(error) if is(&error, Errno::ENOENT) || is(&error, Errno::EAFNOSUPPORT) => {
            Ok(Vec::new())
        }
        other => Ok(other?.into_iter().flatten().collect()),
    }
}

/// `None`: of another table, or by no device.
fn route(message: &Message<'_>, table: u32, family: Family) -> io::Result<Option<(IpNet, u32)>> {
    let attributes = message.attributes(BODY).ok_or_else(not_understood)?;
    let header = message.payload;
    let flags = header[FLAGS..FLAGS + 4].try_into().map(u32::from_ne_bytes);
    let flags = flags.map_err(|_| not_understood())?;
    let of = attributes.u32(RTA_TABLE).unwrap_or(u32::from(header[4]));
    if of != table || header[0] != number(family) || flags & RTM_F_CLONED != 0 {
        return Ok(None);
    }
    let to = match attributes.get(RTA_DST) {
        Some(octets) => ip(octets).and_then(|ip| IpNet::new(ip, header[1]).ok()),
        None => Some(family.all()),
    };
    Ok(to.zip(attributes.u32(RTA_OIF)))
}

fn ip(octets: &[u8]) -> Option<IpAddr> {
    match octets.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(octets).ok()?).into()),
        _ => None,
    }
}

fn number(family: Family) -> u8 {
    match family {
        Family::V4 => AF_INET,
        Family::V6 => AF_INET6,
    }
}

fn is(error: &io::Error, code: Errno) -> bool {
    error.raw_os_error() == Some(code as i32)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    /// A rule as the kernel dumps it.
    fn dumped(flags: u32, fill: impl FnOnce(Request) -> Request) -> Option<String> {
        let mut body = [0; BODY];
        body[0] = AF_INET;
        body[ACTION] = FR_ACT_TO_TBL;
        body[FLAGS..].copy_from_slice(&flags.to_ne_bytes());
        let none = NONE.to_ne_bytes();
        let request = Request::new(32, &body).bytes(FRA_SUPPRESS_PREFIXLEN, &none);
        let datagram = fill(request.bytes(FRA_PROTOCOL, &[3])).datagram();
        let read = messages(&datagram).next().map(|message| rule(&message));
        read.expect("a message").expect("a rule")
    }

    #[test]
    fn a_rule_is_read_in_the_words_that_made_it() {
        let number = |request: Request, kind, value: u32| request.bytes(kind, &value.to_ne_bytes());
        let of = |priority, table: u32| {
            move |request| number(number(request, FRA_PRIORITY, priority), FRA_TABLE, table)
        };
        assert_eq!(dumped(0, of(0, 255)).as_deref(), Some("priority 0 lookup 255"));
        let marked = dumped(FIB_RULE_INVERT, |request| {
            let marked = number(of(31_100, 51821)(request), FRA_FWMARK, 0xca6d);
            number(marked, FRA_FWMASK, u32::MAX)
        });
        assert_eq!(marked.as_deref(), Some("priority 31100 not fwmark 0xca6d lookup 51821"));
        let by_bits = dumped(0, |request| {
            let marked = number(of(31_010, 7)(request), FRA_FWMARK, 0x0100_0000);
            number(marked, FRA_FWMASK, 0xff00_0000)
        });
        let wanted = "priority 31010 fwmark 0x1000000/0xff000000 lookup 7";
        assert_eq!(by_bits.as_deref(), Some(wanted));
        let users = [1000_u32.to_ne_bytes(), 1001_u32.to_ne_bytes()].concat();
        let of_users = dumped(0, |request| of(9, 7)(request).bytes(FRA_UID_RANGE, &users));
        assert_eq!(of_users.as_deref(), Some("priority 9 uidrange 1000-1001 lookup 7"));
        // A rule for some packets only is another rule.
        let by_device = dumped(0, |request| of(9, 7)(request).text(3, "eth0"));
        assert_eq!(by_device, None);
    }

    #[test]
    fn the_rules_and_routes_of_this_host_are_read() {
        let rules = rules(Family::V4).expect("the rules");
        assert!(rules.contains(&"priority 32766 lookup main".to_owned()), "{rules:?}");
        routes(RT_TABLE_MAIN, Family::V4).expect("the routes");
        assert_eq!(routes(0x7abc_def0, Family::V4).expect("no such table"), []);
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            let datagram = Request::new(32, &noise).datagram();
            for message in messages(&datagram) {
                rule(&message).ok();
                route(&message, 254, Family::V4).ok();
            }
        }
    }
}
