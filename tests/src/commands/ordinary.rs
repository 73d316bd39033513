//! The ordinary chatter of a link, as frames: none of it is a leak.

use std::net::{Ipv4Addr, Ipv6Addr};

use lab::addresses::EGRESS;

use super::frames::checksum;

const ALL_ROUTERS_V3: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 22);
const ALL_MLDV2_ROUTERS: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x16);
const MDNS: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const MDNS_PORT: u16 = 5353;
const LINK_LOCAL: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2);

/// A chassis id, a port id, a time to live, the end (IEEE 802.1AB).
pub fn lldp(source: [u8; 6]) -> Vec<u8> {
    let mut body = vec![0x02, 7, 4];
    body.extend(source);
    body.extend([0x04, 5, 5, b'e', b't', b'h', b'0', 0x06, 2, 0, 120, 0, 0]);
    framed([0x01, 0x80, 0xc2, 0, 0, 0x0e], source, 0x88cc, &body)
}

/// EAPOL-Start (IEEE 802.1X).
pub fn eapol(source: [u8; 6]) -> Vec<u8> {
    framed([0x01, 0x80, 0xc2, 0, 0, 0x03], source, 0x888e, &[2, 1, 0, 0])
}

/// An `IGMPv3` membership report with no group record (RFC 3376, 4.2).
pub fn igmp(source: [u8; 6]) -> Vec<u8> {
    let mut report = vec![0x22, 0, 0, 0, 0, 0, 0, 0];
    let sum = checksum(&report).to_be_bytes();
    report[2..4].copy_from_slice(&sum);
    framed(group_mac(ALL_ROUTERS_V3), source, 0x0800, &ipv4(2, 1, ALL_ROUTERS_V3, &report))
}

/// A multicast DNS query without a question.
pub fn mdns(source: [u8; 6]) -> Vec<u8> {
    let mut udp = Vec::new();
    udp.extend(MDNS_PORT.to_be_bytes());
    udp.extend(MDNS_PORT.to_be_bytes());
    udp.extend([0, 20, 0, 0]);
    udp.extend([0; 12]);
    framed(group_mac(MDNS), source, 0x0800, &ipv4(17, 255, MDNS, &udp))
}

/// An `MLDv2` report with no record, with the router alert that RFC 3810 asks for.
pub fn mld(source: [u8; 6]) -> Vec<u8> {
    let options = [58, 0, 5, 2, 0, 0, 1, 0];
    let report = [143, 0, 0, 0, 0, 0, 0, 0];
    let mut packet = vec![0x60, 0, 0, 0, 0, 16, 0, 1];
    packet.extend(LINK_LOCAL.octets());
    packet.extend(ALL_MLDV2_ROUTERS.octets());
    packet.extend(options);
    packet.extend(report);
    framed([0x33, 0x33, 0, 0, 0, 0x16], source, 0x86dd, &packet)
}

fn ipv4(protocol: u8, ttl: u8, target: Ipv4Addr, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(20 + body.len()).unwrap_or(u16::MAX);
    let mut packet = vec![0x45, 0];
    packet.extend(length.to_be_bytes());
    packet.extend([0, 0, 0, 0, ttl, protocol, 0, 0]);
    packet.extend(EGRESS.octets());
    packet.extend(target.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(body);
    packet
}

fn group_mac(group: Ipv4Addr) -> [u8; 6] {
    let [_, b, c, d] = group.octets();
    [0x01, 0x00, 0x5e, b & 0x7f, c, d]
}

fn framed(target: [u8; 6], source: [u8; 6], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(target);
    frame.extend(source);
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}
