//! Packets made by hand, for `AF_PACKET` and raw sockets.

use std::net::{Ipv4Addr, SocketAddrV4};

use lab::addresses::{EGRESS, ROUTER, ROUTER_MAC};

const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_ARP: u16 = 0x0806;
const ETHERTYPE_VLAN: u16 = 0x8100;
const ETHERTYPE_SERVICE_VLAN: u16 = 0x88a8;
const ETHERTYPE_PPPOE: u16 = 0x8864;
const PPP_IPV4: u16 = 0x0021;
/// Any will do: nobody listens on it.
const VLAN_ID: u16 = 7;

/// An Ethernet frame to the router with the IPv4 packet in it.
pub fn ethernet(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    framed(source, &[], ETHERTYPE_IPV4, packet)
}

/// The same in one 802.1Q tag.
pub fn vlan(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    framed(source, &[ETHERTYPE_VLAN], ETHERTYPE_IPV4, packet)
}

/// The same in a service tag and a customer tag.
pub fn qinq(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    framed(source, &[ETHERTYPE_SERVICE_VLAN, ETHERTYPE_VLAN], ETHERTYPE_IPV4, packet)
}

/// The same in a `PPPoE` session (RFC 2516): version and type, code, session, length, PPP's protocol.
pub fn pppoe(source: [u8; 6], packet: &[u8]) -> Vec<u8> {
    let mut body = vec![0x11, 0, 0, 1];
    body.extend(length(packet.len() + 2).to_be_bytes());
    body.extend(PPP_IPV4.to_be_bytes());
    body.extend(packet);
    framed(source, &[], ETHERTYPE_PPPOE, &body)
}

/// Who has the router's address?
pub fn arp_request(source: [u8; 6]) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4, 0, 1];
    body.extend(source);
    body.extend(EGRESS.octets());
    body.extend([0; 6]);
    body.extend(ROUTER.octets());
    framed(source, &[], ETHERTYPE_ARP, &body)
}

/// UDP in IPv4; without a UDP checksum, which IPv4 permits.
pub fn udp4(source: Ipv4Addr, target: Ipv4Addr, port: u16, payload: &[u8]) -> Vec<u8> {
    let udp_length = length(8 + payload.len());
    let mut packet = vec![0x45, 0];
    packet.extend((20 + udp_length).to_be_bytes());
    packet.extend([0, 0, 0, 0, 64, 17, 0, 0]);
    packet.extend(source.octets());
    packet.extend(target.octets());
    let sum = checksum(&packet).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(port.to_be_bytes());
    packet.extend(port.to_be_bytes());
    packet.extend(udp_length.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(payload);
    packet
}

/// The same packet as a later fragment of a larger one: its ports are no ports any more.
pub fn later_fragment(mut packet: Vec<u8>) -> Vec<u8> {
    // Offset 8 * 185, the last fragment of its packet.
    packet[6..8].copy_from_slice(&185_u16.to_be_bytes());
    packet[10..12].fill(0);
    let sum = checksum(&packet[..20]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet
}

/// A segment of an open connection, in its IPv4 header; numbers that nobody expects.
pub fn tcp_segment(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.port().to_be_bytes());
    segment.extend(to.port().to_be_bytes());
    segment.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    // Five words of header; ACK and PSH; a window.
    segment.extend([0x50, 0x18, 0x10, 0, 0, 0, 0, 0]);
    segment.extend(b"old!");
    let mut pseudo = Vec::from(from.ip().octets());
    pseudo.extend(to.ip().octets());
    pseudo.extend([0, 6, 0, 24]);
    pseudo.extend(&segment);
    let sum = checksum(&pseudo).to_be_bytes();
    segment[16..18].copy_from_slice(&sum);
    let mut packet = vec![0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(from.ip().octets());
    packet.extend(to.ip().octets());
    packet.extend(segment);
    packet
}

/// An ICMP echo request; the kernel fills in the checksum of version 6, not of version 4.
pub fn echo_request(kind: u8, id: u16, sequence: u16) -> Vec<u8> {
    let mut message = vec![kind, 0, 0, 0];
    message.extend(id.to_be_bytes());
    message.extend(sequence.to_be_bytes());
    message.extend(b"lab");
    message.push(0);
    let sum = checksum(&message).to_be_bytes();
    message[2..4].copy_from_slice(&sum);
    message
}

pub fn framed(source: [u8; 6], tags: &[u16], ethertype: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = Vec::from(ROUTER_MAC);
    frame.extend(source);
    for tag in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(VLAN_ID.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame.extend(body);
    frame
}

fn length(bytes: usize) -> u16 {
    u16::try_from(bytes).unwrap_or(u16::MAX)
}

/// The Internet checksum of an even number of bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 =
        bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}
