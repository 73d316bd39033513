//! Says at once when something happened that can concern the lock: a change of one of our tables by
//! anybody, a device that came, went or was renamed, a default route. What exactly, nobody asks:
//! whoever is woken looks for himself, and looks now and then anyhow, for events can be lost.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::firewall::is_of_our_tables;
use crate::netlink::{Listener, Message, Protocol};

/// `linux/rtnetlink.h`, `linux/netfilter/nfnetlink.h`.
const RTNLGRP_LINK: u32 = 1;
const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_IPV6_ROUTE: u32 = 11;
const NFNLGRP_NFTABLES: u32 = 7;
const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_NEWROUTE: u16 = 24;
const RTM_DELROUTE: u16 = 25;

/// Where a route message has its destination's prefix length.
const PREFIX_LENGTH: usize = 1;

/// Something happens here for every event; several that nobody has looked after yet are one.
pub fn listen() -> io::Result<Receiver<()>> {
    let (wake, woken) = sync_channel(1);
    let links = [RTNLGRP_LINK, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE];
    hear(Protocol::Netfilter, &[NFNLGRP_NFTABLES], is_of_our_tables, wake.clone())?;
    hear(Protocol::Route, &links, is_of_uplinks, wake)?;
    Ok(woken)
}

fn hear(
    protocol: Protocol,
    groups: &[u32],
    concerns: fn(&Message<'_>) -> bool,
    wake: SyncSender<()>,
) -> io::Result<()> {
    let mut listener = Listener::open(protocol, groups)?;
    let thread = thread::Builder::new().name("events".to_owned());
    thread.spawn(move || {
        loop {
            let concerned = match listener.next() {
                Ok(Some(mut messages)) => messages.any(|message| concerns(&message)),
                // What was lost may have been ours.
                Ok(None) => true,
                Err(error) => {
                    tracing::error!(%error, "kernel events can no longer be read: only the regular checks are left");
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

/// A device, or a default route; of other routes a router may have thousands a second.
fn is_of_uplinks(message: &Message<'_>) -> bool {
    match message.kind {
        RTM_NEWLINK | RTM_DELLINK => true,
        RTM_NEWROUTE | RTM_DELROUTE => message.payload.get(PREFIX_LENGTH) == Some(&0),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::netlink::{Request, messages};

    #[test]
    fn default_routes_and_devices_concern_us_and_other_routes_do_not() {
        let message = |kind, body: &[u8]| Request::new(kind, body).datagram();
        let seen = |datagram: &[u8]| messages(datagram).filter(is_of_uplinks).count();
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
            let concerns = |one: &Message<'_>| is_of_uplinks(one) || is_of_our_tables(one);
            prop_assert!(messages(&noise).filter(concerns).count() <= 12);
        }
    }
}
