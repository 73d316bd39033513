//! Which routing rule decides where a packet goes? For people: what sends packets elsewhere is named.
//! Read only; needs no privilege.

use std::fmt;
use std::io;
use std::net::SocketAddr;

use super::rtnetlink::table_of;
use crate::netlink::{Connection, Message, Protocol, Request, not_understood};

/// `linux/rtnetlink.h`, `linux/fib_rules.h`
const RTM_NEWRULE: u16 = 32;
const RTM_GETRULE: u16 = 34;
/// Of `struct fib_rule_hdr`.
const BODY: usize = 12;
const FRA_IIFNAME: u16 = 3;
const FRA_PRIORITY: u16 = 6;
const FRA_FWMARK: u16 = 10;
const FRA_TABLE: u16 = 15;
const FRA_FWMASK: u16 = 16;
const FRA_OIFNAME: u16 = 17;
const FRA_UID_RANGE: u16 = 20;
const FRA_SPORT_RANGE: u16 = 23;
const FR_ACT_TO_TBL: u8 = 1;
const FIB_RULE_INVERT: u32 = 0x2;
/// The table that every other rule comes after.
const MAIN: u32 = 254;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// A rule that looks a packet up in a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutingRule {
    pub priority: u32,
    table: u32,
    mark: Option<(u32, u32)>,
    inverted: bool,
    /// It has selectors that are not compared here: addresses, devices, users, ports.
    narrower: bool,
}

/// The rule by which a UDP packet of root's with this mark finds its route. `None`: there is no route,
/// or it cannot be told which.
pub fn deciding(to: SocketAddr, mark: u32) -> io::Result<Option<RoutingRule>> {
    let Some(table) = table_of(to, mark)? else {
        return Ok(None);
    };
    let mut body = [0; BODY];
    body[0] = if to.is_ipv4() { AF_INET } else { AF_INET6 };
    let request = Request::new(RTM_GETRULE, &body);
    let rules = Connection::open(Protocol::Route)?.dump(&request, |message| read(&message))?;
    Ok(among(rules.into_iter().flatten().collect(), table, mark))
}

/// The first that matches, and looks into the table in which the route was found.
fn among(mut rules: Vec<RoutingRule>, table: u32, mark: u32) -> Option<RoutingRule> {
    rules.sort_by_key(|rule| rule.priority);
    rules.into_iter().find(|rule| rule.table == table && rule.may_match(mark))
}

/// `None`: it does not look into a table.
fn read(message: &Message<'_>) -> io::Result<Option<RoutingRule>> {
    let attributes = message.attributes(BODY).filter(|_| message.kind == RTM_NEWRULE);
    let attributes = attributes.ok_or_else(not_understood)?;
    let header = message.payload;
    if header[7] != FR_ACT_TO_TBL {
        return Ok(None);
    }
    let flags = u32::from_ne_bytes(header[8..12].try_into().map_err(|_| not_understood())?);
    let mark = attributes.u32(FRA_FWMARK).unwrap_or(0);
    let bits = attributes.u32(FRA_FWMASK).unwrap_or(0);
    let other = [FRA_IIFNAME, FRA_OIFNAME].iter().any(|kind| attributes.get(*kind).is_some())
        || (FRA_UID_RANGE..=FRA_SPORT_RANGE + 1).any(|kind| attributes.get(kind).is_some());
    Ok(Some(RoutingRule {
        priority: attributes.u32(FRA_PRIORITY).unwrap_or(0),
        table: attributes.u32(FRA_TABLE).unwrap_or(u32::from(header[4])),
        mark: (bits != 0).then_some((mark, bits)),
        inverted: flags & FIB_RULE_INVERT != 0,
        narrower: header[1] != 0 || header[2] != 0 || other,
    }))
}

impl RoutingRule {
    fn may_match(&self, mark: u32) -> bool {
        let carries = self.mark.is_none_or(|(value, mask)| mark & mask == value & mask);
        self.narrower || carries != self.inverted
    }
}

/// `ip rule 31100 (not fwmark 0xca6c, table 51820)`
impl fmt::Display for RoutingRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip rule {} (", self.priority)?;
        if self.inverted {
            f.write_str("not ")?;
        }
        match self.mark {
            Some((mark, u32::MAX)) => write!(f, "fwmark {mark:#x}, ")?,
            Some((mark, bits)) => write!(f, "fwmark {mark:#x}/{bits:#x}, ")?,
            None => {}
        }
        match self.table {
            MAIN => f.write_str("table main)"),
            table => write!(f, "table {table})"),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::messages;

    fn rule(priority: u32, table: u32, mark: Option<(u32, u32)>) -> RoutingRule {
        RoutingRule { priority, table, mark, inverted: false, narrower: false }
    }

    #[test]
    fn the_rule_that_leads_to_the_routes_table_is_named() {
        const OURS: u32 = 0xca6c;
        let inverted =
            RoutingRule { inverted: true, ..rule(31_100, 51_820, Some((OURS, u32::MAX))) };
        let rules = vec![
            rule(32_766, MAIN, None),
            rule(100, MAIN, Some((0x100, 0xff00))),
            rule(5_270, 52, None),
            inverted.clone(),
        ];
        let found = |table, mark| among(rules.clone(), table, mark).map(|rule| rule.to_string());
        assert_eq!(
            found(MAIN, 0x1ff).as_deref(),
            Some("ip rule 100 (fwmark 0x100/0xff00, table main)")
        );
        assert_eq!(found(MAIN, OURS).as_deref(), Some("ip rule 32766 (table main)"));
        assert_eq!(found(52, 0).as_deref(), Some("ip rule 5270 (table 52)"));
        assert_eq!(found(51_820, 0), Some(inverted.to_string()));
        assert_eq!(found(51_820, OURS), None);
    }

    #[test]
    fn the_kernel_of_this_host_can_be_asked() {
        let rule = deciding("127.0.0.1:53".parse().expect("an address"), 0).expect("an answer");
        // Without any rule that somebody added, the kernel keeps the local and the main table as one.
        let table = rule.expect("a rule").table;
        assert!([MAIN, MAIN + 1].contains(&table), "{table}");
    }

    proptest! {
        #[test]
        fn noise_makes_nothing_panic(noise in prop::collection::vec(any::<u8>(), 0..80)) {
            let datagram = Request::new(RTM_NEWRULE, &noise).datagram();
            for message in messages(&datagram) {
                read(&message).ok();
            }
        }
    }
}
