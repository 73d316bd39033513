//! A netlink socket: questions with one answer, dumps, and notifications.

use std::io;

use netlink_sys::protocols::{NETLINK_GENERIC, NETLINK_NETFILTER, NETLINK_ROUTE};
use netlink_sys::{Socket, SocketAddr};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, setsockopt, sockopt};
use zeroize::Zeroizing;

use super::message::{Message, NLMSG_DONE, NLMSG_ERROR, messages};
use super::{Request, not_understood};

/// `linux/netlink.h`
const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_EXCL: u16 = 0x200;
const NLM_F_CREATE: u16 = 0x400;

/// The kernel fills at most 32 KiB of a dump at once, and as much as the reader has shown to take.
const BUFFER: usize = 32 * 1024;

/// A dump that was interrupted by a change is asked for again. More changes than this in a row are
/// somebody who writes all the time; the caller decides then.
const DUMP_ATTEMPTS: u32 = 5;

/// What a listener may have waiting: a transaction of a thousand rules is one burst of notifications.
const LISTENER_BUFFER: usize = 4 * 1024 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Route,
    Netfilter,
    Generic,
}

impl Protocol {
    fn number(self) -> isize {
        match self {
            Self::Route => NETLINK_ROUTE,
            Self::Netfilter => NETLINK_NETFILTER,
            Self::Generic => NETLINK_GENERIC,
        }
    }
}

/// For questions. Of the network namespace that the thread was in when it was opened.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    sequence: u32,
    /// Wiped at the end: WireGuard's answers hold keys.
    buffer: Zeroizing<Vec<u8>>,
}

impl Connection {
    pub fn open(protocol: Protocol) -> io::Result<Self> {
        let socket = Socket::new(protocol.number())?;
        // Nobody but the kernel can send to a socket that is connected to it.
        socket.connect(&SocketAddr::new(0, 0))?;
        // The kernel has answered by the time it took the request, and has the next part of a dump
        // when one is taken; so there is nothing to wait for.
        socket.set_non_blocking(true)?;
        let buffer = Zeroizing::new(Vec::with_capacity(BUFFER));
        Ok(Self { socket, sequence: 0, buffer })
    }

    /// Dumps bring only what the request asks for, where the kernel can do that (since 4.20); else
    /// everything, as without this.
    pub fn filter_in_kernel(&self) {
        self.socket.set_netlink_get_strict_chk(true).ok();
    }

    /// One question and its answer. What the kernel refuses is an error with the kernel's code.
    pub fn ask<T>(
        &mut self,
        request: Request,
        read: impl FnOnce(Message<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let sequence = self.send(request, NLM_F_REQUEST)?;
        loop {
            self.receive()?;
            let mut answers = messages(&self.buffer);
            if let Some(answer) = answers.find(|message| message.sequence == sequence) {
                if answer.kind == NLMSG_ERROR {
                    answer.error()?;
                    return Err(not_understood());
                }
                return read(answer);
            }
        }
    }

    /// Carries out an order on something that is there.
    pub fn change(&mut self, request: Request) -> io::Result<()> {
        self.order(request, 0)
    }

    /// Makes something that is not there yet; otherwise [`io::ErrorKind::AlreadyExists`].
    pub fn create(&mut self, request: Request) -> io::Result<()> {
        self.order(request, NLM_F_CREATE | NLM_F_EXCL)
    }

    fn order(&mut self, request: Request, flags: u16) -> io::Result<()> {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        loop {
            self.receive()?;
            let mut answers = messages(&self.buffer).filter(|one| one.kind == NLMSG_ERROR);
            if let Some(answer) = answers.find(|message| message.sequence == sequence) {
                return answer.error();
            }
        }
    }

    /// All there is of a kind, as of one moment: where something changed meanwhile, it is asked for
    /// again. [`io::ErrorKind::Interrupted`]: it changes all the time.
    pub fn dump<T>(
        &mut self,
        request: &Request,
        mut read: impl FnMut(Message<'_>) -> io::Result<T>,
    ) -> io::Result<Vec<T>> {
        for _ in 0..DUMP_ATTEMPTS {
            if let Some(found) = self.dump_once(request.clone(), &mut read)? {
                return Ok(found);
            }
        }
        Err(io::ErrorKind::Interrupted.into())
    }

    fn dump_once<T>(
        &mut self,
        request: Request,
        read: &mut impl FnMut(Message<'_>) -> io::Result<T>,
    ) -> io::Result<Option<Vec<T>>> {
        let sequence = self.send(request, NLM_F_REQUEST | NLM_F_DUMP)?;
        let (mut found, mut interrupted) = (Vec::new(), false);
        loop {
            self.receive()?;
            for message in messages(&self.buffer).filter(|one| one.sequence == sequence) {
                interrupted |= message.is_interrupted();
                match message.kind {
                    NLMSG_DONE => {
                        message.error()?;
                        return Ok((!interrupted).then_some(found));
                    }
                    NLMSG_ERROR => {
                        message.error()?;
                        return Err(not_understood());
                    }
                    // Read to its end all the same: a socket does one dump at a time.
                    _ if interrupted => {}
                    _ => found.push(read(message)?),
                }
            }
        }
    }

    fn send(&mut self, request: Request, flags: u16) -> io::Result<u32> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&request.framed(flags, self.sequence)?, 0)?;
        Ok(self.sequence)
    }

    fn receive(&mut self) -> io::Result<()> {
        receive(&self.socket, &mut self.buffer)
    }
}

/// For notifications.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Listener {
    pub fn open(protocol: Protocol, groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(protocol.number())?;
        socket.bind(&SocketAddr::new(0, 0))?;
        // Inside a user namespace only the system's limit can be had: what is lost there is told by
        // ENOBUFS.
        if setsockopt(&socket, sockopt::RcvBufForce, &LISTENER_BUFFER).is_err() {
            socket.set_rx_buf_sz(LISTENER_BUFFER).ok();
        }
        for group in groups {
            socket.add_membership(*group)?;
        }
        Ok(Self { socket, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Waits for the next datagram. `None`: something happened that was lost, because it was more than
    /// the socket holds.
    pub fn next(&mut self) -> io::Result<Option<impl Iterator<Item = Message<'_>>>> {
        match receive(&self.socket, &mut self.buffer) {
            Ok(()) => Ok(Some(messages(&self.buffer))),
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// One datagram, whole.
fn receive(socket: &Socket, buffer: &mut Vec<u8>) -> io::Result<()> {
    loop {
        buffer.clear();
        match socket.recv(buffer, MsgFlags::MSG_TRUNC.bits()) {
            Ok(length) if length <= buffer.len() => return Ok(()),
            // Only of a device with hundreds of virtual functions.
            Ok(length) => {
                buffer.reserve(length);
                return Err(io::Error::new(io::ErrorKind::InvalidData, "netlink: cut short"));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `linux/rtnetlink.h`
    const RTM_GETLINK: u16 = 18;
    const RTM_NEWLINK: u16 = 16;
    const IFLA_IFNAME: u16 = 3;
    const HEADER: usize = 16;

    #[test]
    fn the_kernel_of_this_host_answers_a_question_a_dump_and_a_refusal() {
        let mut kernel = Connection::open(Protocol::Route).expect("a socket");
        let request = Request::new(RTM_GETLINK, &[0; HEADER]);
        let name = |message: Message<'_>| {
            assert_eq!(message.kind, RTM_NEWLINK);
            let attributes = message.attributes(HEADER).expect("attributes");
            Ok(attributes.text(IFLA_IFNAME).expect("a name").to_owned())
        };
        let names = kernel.dump(&request, name).expect("the devices");
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
        let lo = request.clone().text(IFLA_IFNAME, "lo");
        assert_eq!(kernel.ask(lo, name).expect("the device"), "lo");
        let missing = request.text(IFLA_IFNAME, "no-such-dev");
        let error = kernel.ask(missing, name).expect_err("no such device");
        assert_eq!(error.raw_os_error(), Some(Errno::ENODEV as i32));
    }
}
