//! Says at once when something happened that can concern the lock: a change of one of our tables by
//! anybody, a device that came, went or was renamed, a default route. What exactly, nobody asks:
//! whoever is woken looks for himself, and looks now and then anyhow, for events can be lost.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use netlink_sys::protocols::{NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;

use crate::firewall::is_of_our_tables;

/// `linux/rtnetlink.h`, `linux/netfilter/nfnetlink.h`.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Length, type, flags, sequence, port.
const HEADER: usize = 16;
/// Where a route message has its destination's prefix length.
const PREFIX_LENGTH: usize = HEADER + 1;

/// Something happens here for every event; several that nobody has looked after yet are one.
pub fn listen() -> io::Result<Receiver<()>> {
    let (wake, woken) = sync_channel(1);
    let links = [RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE];
    hear(NETLINK_NETFILTER, &[NFNLGRP_NFTABLES], is_of_our_tables, wake.clone())?;
    hear(NETLINK_ROUTE, &links, is_of_uplinks, wake)?;
    Ok(woken)
}

fn hear(
    family: isize,
    groups: &[u32],
    concerns: fn(&[u8]) -> bool,
    wake: SyncSender<()>,
) -> io::Result<()> {
    let mut socket = Socket::new(family)?;
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    let thread = thread::Builder::new().name("events".to_owned());
    thread.spawn(move || {
        loop {
            let concerned = match socket.recv_from_full() {
                Ok((datagram, _)) => messages(&datagram).any(concerns),
                // More happened than the socket holds: it may have been ours.
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => false,
                Err(error) => {
                    tracing::error!(%error, "events are heard no longer, only looked for");
                    return;
                }
            };
            if concerned {
                // Full is as good: somebody is about to look.
                let _ = wake.try_send(());
            }
        }
    })?;
    Ok(())
}

/// The messages of one datagram.
fn messages(mut datagram: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = u32::from_ne_bytes(datagram.get(0..4)?.try_into().ok()?) as usize;
        let message = datagram.get(..length).filter(|message| message.len() >= HEADER)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some(message)
    })
}

/// A device, or a default route; of other routes a router may have thousands a second.
fn is_of_uplinks(message: &[u8]) -> bool {
    let kind = message.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    match kind {
        Some(RTM_NEWLINK | RTM_DELLINK) => true,
        Some(RTM_NEWROUTE | RTM_DELROUTE) => message.get(PREFIX_LENGTH) == Some(&0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(kind: u16, body: &[u8]) -> Vec<u8> {
        let mut message = vec![0; HEADER];
        message[4..6].copy_from_slice(&kind.to_ne_bytes());
        message.extend(body);
        let length = u32::try_from(message.len()).expect("short");
        message[0..4].copy_from_slice(&length.to_ne_bytes());
        message.resize(message.len().next_multiple_of(4), 0);
        message
    }

    #[test]
    fn default_routes_and_devices_concern_us_and_other_routes_do_not() {
        let seen = |datagram: &[u8]| messages(datagram).filter(|one| is_of_uplinks(one)).count();
        let (default, other) = ([2, 0, 0, 0], [2, 24, 0, 0]);
        assert_eq!(seen(&message(RTM_NEWROUTE, &other)), 0);
        let several = [
            message(RTM_NEWROUTE, &other),
            message(RTM_NEWLINK, b"odd"),
            message(RTM_DELROUTE, &default),
        ];
        assert_eq!(seen(&several.concat()), 2);
    }

    proptest! {
        #[test]
        fn noise_ends(noise in prop::collection::vec(any::<u8>(), 0..200)) {
            prop_assert!(messages(&noise).filter(|one| is_of_uplinks(one) || is_of_our_tables(one)).count() <= 12);
        }
    }
}
