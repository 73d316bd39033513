//! A userspace WireGuard, by its socket: the cross-platform protocol of wireguard.com/xplatform.

use std::io::{self, Read as _, Write as _};
use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use socket2::{Domain, SockAddr, Socket, Type};
use zeroize::Zeroizing;

use super::{Device, Peer, some_key};
use crate::key::{PublicKey, SecretKey};

/// A peer takes some 300 bytes: three thousand peers. More is not a device of ours.
const LONGEST_REPLY: usize = 1024 * 1024;

/// Reads the device behind `socket`, and takes no longer than `limit`.
pub fn read(socket: &Path, limit: Duration) -> io::Result<Device> {
    let deadline = Instant::now() + limit;
    let daemon = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    // Of a daemon that accepts nobody, too.
    daemon.set_write_timeout(Some(limit))?;
    daemon.connect(&SockAddr::unix(socket)?).map_err(timed_out)?;
    let mut daemon = std::os::unix::net::UnixStream::from(daemon);
    daemon.write_all(b"get=1\n\n").map_err(timed_out)?;
    // It holds the private key.
    let mut reply = Zeroizing::new(Vec::with_capacity(4096));
    let mut part = Zeroizing::new([0; 4096]);
    while !reply.ends_with(b"\n\n") {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        daemon.set_read_timeout(Some(left))?;
        match daemon.read(part.as_mut_slice()) {
            Ok(0) => break,
            Ok(length) if reply.len() + length > LONGEST_REPLY => {
                return Err(malformed("too long"));
            }
            Ok(length) => reply.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(timed_out(error)),
        }
    }
    parse(&reply)
}

fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock {
        return io::ErrorKind::TimedOut.into();
    }
    error
}

/// Says what is wrong, and nothing of what was read: it may be a secret.
fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the reply of its daemon is {what}"))
}

fn parse(reply: &[u8]) -> io::Result<Device> {
    let text = std::str::from_utf8(reply).map_err(|_| malformed("no text"))?;
    let mut device = Device::default();
    let mut handshake = (0_u64, 0_u32);
    let mut ended = false;
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once('=').ok_or_else(|| malformed("no list of values"))?;
        if name == "errno" {
            ended = true;
            match number::<i32>(value)? {
                0 => break,
                code => return Err(io::Error::from_raw_os_error(code.saturating_abs())),
            }
        }
        if name == "public_key" {
            let own = PublicKey::from_bytes(key(value)?);
            device.peers.push(Peer::new(own));
            handshake = (0, 0);
            continue;
        }
        let Some(peer) = device.peers.last_mut() else {
            match name {
                "private_key" => {
                    let own = some_key(key(value)?).map(SecretKey::from_bytes);
                    device.public_key = own.map(|own| own.public());
                }
                "listen_port" => device.listen_port = Some(number(value)?),
                "fwmark" => device.fwmark = Some(number(value)?).filter(|mark| *mark != 0),
                _ => {}
            }
            continue;
        };
        match name {
            "preshared_key" => {
                peer.preshared_key = some_key(key(value)?).map(SecretKey::from_bytes);
            }
            "endpoint" => peer.address = Some(number(value)?),
            "persistent_keepalive_interval" => peer.persistent_keepalive = number(value)?,
            "rx_bytes" => peer.received_bytes = number(value)?,
            "tx_bytes" => peer.sent_bytes = number(value)?,
            "allowed_ip" => _ = peer.allowed.insert(net(value)?),
            "last_handshake_time_sec" => {
                handshake.0 = number(value)?;
                peer.last_handshake = time(handshake);
            }
            "last_handshake_time_nsec" => {
                handshake.1 = number(value)?;
                peer.last_handshake = time(handshake);
            }
            _ => {}
        }
    }
    if ended { Ok(device) } else { Err(malformed("cut short")) }
}

fn number<T: std::str::FromStr>(value: &str) -> io::Result<T> {
    value.parse().map_err(|_| malformed("not understood"))
}

/// 64 hexadecimal digits.
fn key(value: &str) -> io::Result<[u8; 32]> {
    let mut bytes = [0; 32];
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digits = Some(value.as_bytes()).filter(|digits| digits.len() == 64);
    for (byte, pair) in bytes.iter_mut().zip(digits.ok_or_else(no_key)?.chunks(2)) {
        let (high, low) = (digit(pair[0]).ok_or_else(no_key)?, digit(pair[1]).ok_or_else(no_key)?);
        *byte = high << 4 | low;
    }
    Ok(bytes)
}

fn no_key() -> io::Error {
    malformed("not understood: a key is 64 hexadecimal digits")
}

fn net(value: &str) -> io::Result<(IpAddr, u8)> {
    let (address, length) = value.split_once('/').ok_or_else(|| malformed("not understood"))?;
    Ok((number(address)?, number(length)?))
}

/// Seconds and nanoseconds; zero is never.
fn time((seconds, nanoseconds): (u64, u32)) -> Option<SystemTime> {
    let since =
        Duration::from_secs(seconds).checked_add(Duration::from_nanos(nanoseconds.into()))?;
    if since.is_zero() { None } else { SystemTime::UNIX_EPOCH.checked_add(since) }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(1);

    /// What is read where a daemon answers like this, until whoever asked is gone.
    fn answered_within(
        limit: Duration,
        answer: impl Fn(&mut std::os::unix::net::UnixStream) + Send + 'static,
    ) -> io::Result<Device> {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("wg0.sock");
        let listener = UnixListener::bind(&socket).expect("a socket");
        thread::spawn(move || {
            if let Ok((mut asked, _)) = listener.accept() {
                let mut question = [0; 7];
                asked.read_exact(&mut question).ok();
                answer(&mut asked);
            }
        });
        read(&socket, limit)
    }

    fn answered(
        answer: impl Fn(&mut std::os::unix::net::UnixStream) + Send + 'static,
    ) -> io::Result<Device> {
        answered_within(LIMIT, answer)
    }

    #[test]
    fn a_reply_is_read_with_several_peers() {
        let hex = |byte: &str| byte.repeat(32);
        let reply = format!(
            "private_key={}\nlisten_port=1\nfwmark=51820\npublic_key={}\nendpoint=[2001:db8::1]:7\n\
             last_handshake_time_sec=5\nlast_handshake_time_nsec=6\nrx_bytes=8\nallowed_ip=0.0.0.0/0\n\
             preshared_key={}\npublic_key={}\nsomething_new=1\nerrno=0\n\n",
            hex("01"),
            hex("0a"),
            hex("00"),
            hex("0b")
        );
        let device = answered(move |asked| asked.write_all(reply.as_bytes()).unwrap_or_default());
        let device = device.expect("a device");
        let own = SecretKey::from_bytes([1; 32]).public();
        assert_eq!((device.public_key, device.fwmark), (Some(own), Some(51820)));
        let [first, second] = device.peers.as_slice() else { panic!("{device:?}") };
        assert_eq!(first.address, Some("[2001:db8::1]:7".parse().expect("an address")));
        assert_eq!(first.last_handshake, Some(SystemTime::UNIX_EPOCH + Duration::new(5, 6)));
        assert_eq!((first.received_bytes, first.allowed.len()), (8, 1));
        assert_eq!(first.preshared_key, None, "zeros are none");
        assert_eq!(*second, Peer::new(PublicKey::from_bytes([0x0b; 32])));
    }

    #[test]
    fn s10_a_malformed_reply_is_an_error_that_shows_nothing_of_it() {
        for reply in [
            "errno=many\n\n",
            "errno=-19\n\n",
            "private_key=SECRET\nerrno=0\n\n",
            "private_key=éééééééééééééééééééééééééééééééé\nerrno=0\n\n",
            "public_key=0a\nerrno=0\n\n",
            "no list\n\n",
            "fwmark=1\n",
            "",
        ] {
            let error = answered(|asked| asked.write_all(reply.as_bytes()).unwrap_or_default());
            let error = error.expect_err(reply).to_string();
            assert!(!error.contains("SECRET") && !error.contains('é'), "{error}");
        }
        assert!(answered(|asked| asked.write_all(b"\xff\xfe\n\n").unwrap_or_default()).is_err());
    }

    #[test]
    fn an_endless_reply_is_given_up_by_its_size() {
        let patience = Duration::from_secs(60);
        let endless = b"allowed_ip=0.0.0.0/0\n".repeat(1000);
        let error =
            answered_within(patience, move |asked| while asked.write_all(&endless).is_ok() {});
        assert_eq!(error.expect_err("endless").kind(), io::ErrorKind::InvalidData);
    }

    #[test]
    fn one_that_is_silent_or_slow_is_given_up_in_time() {
        let slowly = |asked: &mut std::os::unix::net::UnixStream| {
            while asked.write_all(b"a=1\n").is_ok() {
                thread::sleep(Duration::from_millis(20));
            }
        };
        for answer in [|_: &mut _| thread::sleep(Duration::from_secs(5)), slowly] {
            let started = Instant::now();
            assert_eq!(answered(answer).expect_err("silent").kind(), io::ErrorKind::TimedOut);
            assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        }
    }

    proptest! {
        #[test]
        fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..300)) {
            parse(&noise).ok();
        }

        #[test]
        fn no_value_makes_it_panic(
            name in "(private_key|public_key|endpoint|fwmark|errno|rx_bytes|allowed_ip|last_handshake_time_sec)",
            value in "\\PC{0,70}",
        ) {
            parse(format!("public_key={}\n{name}={value}\nerrno=0\n", "0a".repeat(32)).as_bytes()).ok();
        }
    }
}
