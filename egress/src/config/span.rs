//! How much of the public Internet the networks of a path's lists add up to.
//!
//! A list is judged by what its networks cover together, not by how each is written: two halves of
//! the address space, or sixty-four quarters of them, open the lock like the whole of it.

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The most public IPv4 addresses that a path may reach outside its tunnel: a /8, the largest block
/// that one organisation holds.
const MOST_V4: u64 = 1 << (32 - 8);

/// The same for IPv6: a /16, larger than what any one organisation has been given.
const MOST_V6: u128 = 1 << (128 - 16);

/// Never a public host's: private, shared, loopback, link-local, multicast and reserved.
const NOT_PUBLIC: [Ipv4Net; 8] = [
    v4([0, 0, 0, 0], 8),
    v4([10, 0, 0, 0], 8),
    v4([100, 64, 0, 0], 10),
    v4([127, 0, 0, 0], 8),
    v4([169, 254, 0, 0], 16),
    v4([172, 16, 0, 0], 12),
    v4([192, 168, 0, 0], 16),
    v4([224, 0, 0, 0], 3),
];

/// The only part of IPv6 from which public addresses are given out.
const PUBLIC_V6: Ipv6Net = v6(0x2000 << 112, 3);

/// Networks of IPv6 whose addresses stand for an IPv4 address, which begins after so many bits:
/// IPv4-compatible, IPv4-mapped, NAT64 (two), 6to4.
const EMBEDDED: [(Ipv6Net, u8); 5] = [
    (v6(0, 96), 96),
    (v6(0xffff << 32, 96), 96),
    (v6(0x0064_ff9b << 96, 96), 96),
    (v6(0x0064_ff9b_0001 << 80, 48), 96),
    (v6(0x2002 << 112, 16), 16),
];

const fn v4(octets: [u8; 4], length: u8) -> Ipv4Net {
    let [a, b, c, d] = octets;
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(address: u128, length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::from_bits(address), length)
}

/// Whether the networks together hold more of the public Internet than a lock may leave open.
pub(super) fn opens_the_lock(nets: &[IpNet]) -> bool {
    let mut v4: Vec<Ipv4Net> = Vec::new();
    let mut v6: Vec<Ipv6Net> = Vec::new();
    for net in nets {
        match net {
            IpNet::V4(net) => v4.push(*net),
            IpNet::V6(net) => {
                v6.push(*net);
                v4.extend(EMBEDDED.iter().filter_map(|(of, bits)| embedded(*net, *of, *bits)));
            }
        }
    }
    public_v4(&v4) > MOST_V4 || public_v6(&v6) > MOST_V6
}

/// What `net` reaches of IPv4 by way of `of`.
fn embedded(net: Ipv6Net, of: Ipv6Net, bits: u8) -> Option<Ipv4Net> {
    if net.contains(&of) {
        return Some(Ipv4Net::default());
    }
    if !of.contains(&net) {
        return None;
    }
    let shift = u32::from(128 - 32 - bits);
    let address = u32::try_from((u128::from(net.network()) >> shift) & 0xffff_ffff).ok()?;
    Ipv4Net::new(address.into(), net.prefix_len().saturating_sub(bits).min(32)).ok()
}

fn public_v4(nets: &[Ipv4Net]) -> u64 {
    let size = |net: &Ipv4Net| 1_u64 << (32 - net.prefix_len());
    let public = |net: &Ipv4Net| {
        if NOT_PUBLIC.iter().any(|other| other.contains(net)) {
            return 0;
        }
        let inside = NOT_PUBLIC.iter().filter(|other| net.contains(*other));
        size(net) - inside.map(size).sum::<u64>()
    };
    // Aggregated networks do not overlap, so their sizes add up.
    Ipv4Net::aggregate(&nets.to_vec()).iter().map(public).sum()
}

fn public_v6(nets: &[Ipv6Net]) -> u128 {
    let size = |net: &Ipv6Net| 1_u128.checked_shl(128 - u32::from(net.prefix_len()));
    let public = |net: &Ipv6Net| {
        if net.contains(&PUBLIC_V6) {
            size(&PUBLIC_V6).unwrap_or(u128::MAX)
        } else if PUBLIC_V6.contains(net) {
            size(net).unwrap_or(u128::MAX)
        } else {
            0
        }
    };
    Ipv6Net::aggregate(&nets.to_vec()).iter().map(public).fold(0, u128::saturating_add)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nets(text: &str) -> Vec<IpNet> {
        text.split_whitespace().map(|net| net.parse().expect(net)).collect()
    }

    #[test]
    fn s1_networks_are_judged_by_what_they_cover_together() {
        let quarters = (0..64).map(|nth| format!("{}.0.0.0/8", nth * 4)).collect::<Vec<_>>();
        let small = (0..=16).map(|nth| format!("44.{}.0.0/12", nth * 16 % 256));
        let small = small.chain(["45.0.0.0/12".to_owned()]).collect::<Vec<_>>();
        for open in [
            "0.0.0.0/0",
            "::/0",
            "0.0.0.0/1 128.0.0.0/1",
            "128.0.0.0/1",
            "64.0.0.0/2",
            "11.0.0.0/8 12.0.0.0/32",
            "2000::/3",
            "2400::/6",
            "2a00::/16 2a01::/128",
            "2000::/4 3000::/4",
            "64:ff9b::/96",
            "64:ff9b:1::/48",
            "64:ff9b::4000:0/98",
            "2002::/16",
            "::ffff:0:0/96",
            "::/3",
            &quarters.join(" "),
            &small.join(" "),
        ] {
            assert!(opens_the_lock(&nets(open)), "{open}");
        }
        for local in [
            "",
            "10.0.0.0/8 172.16.0.0/12 192.168.0.0/16 100.64.0.0/10 169.254.0.0/16 127.0.0.0/8",
            "224.0.0.0/4 fc00::/7 fe80::/10 ff00::/8",
            "11.0.0.0/8",
            "11.0.0.0/8 11.1.0.0/16 11.0.0.0/8",
            "2a00::/16",
            "2001:db8::/32 203.0.113.0/24",
            "64:ff9b::a00:0/104",
            "2002:a00::/24",
        ] {
            assert!(!opens_the_lock(&nets(local)), "{local}");
        }
    }

    proptest! {
        #[test]
        fn more_networks_never_cover_less(
            list in prop::collection::vec((any::<u32>(), 0_u8..=32), 1..8)
        ) {
            let all: Vec<IpNet> = list.into_iter()
                .filter_map(|(address, length)| Ipv4Net::new(address.into(), length).ok())
                .map(|net| IpNet::V4(net.trunc()))
                .collect();
            if opens_the_lock(&all[1..]) {
                prop_assert!(opens_the_lock(&all));
            }
        }
    }
}
