//! The WireGuard device of a path: seen, and switched to another endpoint.
//!
//! Never creates an interface, and never waits without a bound. The backend is detected per
//! interface and per call: a UAPI socket means userspace, else it is the kernel's.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime};

use wireguard_control::{Backend, DeviceUpdate, InterfaceName, Key, PeerConfigBuilder};

use crate::bounded::{self, Pending, TimedOut, bounded};
use crate::config::{Endpoint, PathConfig};
use crate::key::PublicKey;
use crate::netns::{Netns, NetnsError, within};
use crate::tunnel::Link;
use crate::wireguard::{self, Device};

/// Both backends answer within a millisecond; a daemon that is busy with 200 peers within ten.
const DEVICE_TIMEOUT: Duration = Duration::from_secs(2);

/// Where userspace implementations put their socket (wg(8)).
const SOCKET_DIRECTORY: &str = "/var/run/wireguard";

#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(
        "interface {0} does not exist: bring it up (for example `wg-quick up {0}`), or let `actuator converge` make it (`bring_up: auto`)"
    )]
    Missing(String),
    #[error("`{0}` is no interface name")]
    Name(String),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(
        "interface {0} has a WireGuard socket that nobody listens on: its userspace daemon is gone, restart it"
    )]
    DaemonGone(String),
    #[error(
        "interface {interface}: {socket} lets its owner in only: give this program CAP_DAC_OVERRIDE too (AmbientCapabilities=), or run it as root; leave the socket as it is, for wireguard-go ends when its mode or owner changes"
    )]
    Shut {
        interface: String,
        socket: PathBuf,
        #[source]
        source: io::Error,
    },
    /// It was read for several, who all see the same.
    #[error(transparent)]
    Shared(#[from] Arc<DeviceError>),
    #[error("interface {interface} did not answer")]
    Hung {
        interface: String,
        #[source]
        source: TimedOut,
    },
    #[error("interface {interface} could not be read: restart its userspace daemon")]
    Malformed {
        interface: String,
        #[source]
        source: io::Error,
    },
    #[error(
        "interface {interface} could not be {verb}: not WireGuard, or CAP_NET_ADMIN is missing"
    )]
    Refused {
        interface: String,
        verb: &'static str,
        #[source]
        source: io::Error,
    },
}

/// What the device says of itself; holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceView {
    /// Public half of the device's private key.
    pub public_key: Option<PublicKey>,
    pub fwmark: Option<u32>,
    pub peers: Vec<PeerView>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    pub public_key: PublicKey,
    pub address: Option<SocketAddr>,
    /// `None`: never.
    pub last_handshake: Option<SystemTime>,
    pub received_bytes: u64,
    pub sent_bytes: u64,
}

/// How the live peer compares with a configured endpoint. Identity is (private key, peer key,
/// configured address).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Likeness {
    Same,
    /// The keys are right, the address is not the configured one: an authenticated packet from
    /// elsewhere moved it.
    Roamed,
    Different,
}

impl DeviceView {
    fn of(device: &Device) -> Self {
        let peer = |peer: &wireguard::Peer| PeerView {
            public_key: peer.public_key,
            address: peer.address,
            last_handshake: peer.last_handshake,
            received_bytes: peer.received_bytes,
            sent_bytes: peer.sent_bytes,
        };
        Self {
            public_key: device.public_key,
            fwmark: device.fwmark,
            peers: device.peers.iter().map(peer).collect(),
        }
    }

    /// The only peer; a path's device has one.
    pub fn peer(&self) -> Option<&PeerView> {
        match self.peers.as_slice() {
            [peer] => Some(peer),
            _ => None,
        }
    }

    /// Whether both are of one device with one peer, wherever that peer roamed meanwhile. A device
    /// that was switched, or made again, is another one.
    pub fn is_of_the_same_peer(&self, later: &Self) -> bool {
        let key = |view: &Self| view.peer().map(|peer| peer.public_key);
        let received = |view: &Self| view.peer().map(|peer| peer.received_bytes);
        self.public_key == later.public_key
            && key(self) == key(later)
            && received(self) <= received(later)
    }

    pub fn likeness(&self, endpoint: &Endpoint) -> Likeness {
        let Some(peer) = self.peer() else {
            return Likeness::Different;
        };
        if peer.public_key != endpoint.public_key
            || self.public_key != Some(endpoint.private_key.public())
        {
            return Likeness::Different;
        }
        if peer.address == Some(endpoint.address) { Likeness::Same } else { Likeness::Roamed }
    }

    /// The configured endpoint that is live: an exact match before one that has roamed.
    pub fn live<'a>(&self, endpoints: &'a [Endpoint]) -> Option<(&'a Endpoint, Likeness)> {
        let with = |wanted| {
            let mut all = endpoints.iter();
            all.find(|endpoint| self.likeness(endpoint) == wanted)
                .map(|endpoint| (endpoint, wanted))
        };
        with(Likeness::Same).or_else(|| with(Likeness::Roamed))
    }
}

/// Which backend an interface has, before any call on it: the kernel backend creates a missing one.
fn find(interface: &str) -> Result<(InterfaceName, Backend), DeviceError> {
    let name = interface.parse().map_err(|_| DeviceError::Name(interface.to_owned()))?;
    if nix::net::if_::if_nametoindex(interface).is_err() {
        return Err(DeviceError::Missing(interface.to_owned()));
    }
    let userspace = socket(interface).try_exists();
    let userspace = userspace.map_err(|error| refused(interface, "read", error))?;
    Ok((name, if userspace { Backend::Userspace } else { Backend::Kernel }))
}

fn socket(interface: &str) -> PathBuf {
    PathBuf::from(SOCKET_DIRECTORY).join(format!("{interface}.sock"))
}

/// What a backend's error means.
fn refused(interface: &str, verb: &'static str, source: io::Error) -> DeviceError {
    let userspace = !matches!(socket(interface).try_exists(), Ok(false));
    match source.kind() {
        io::ErrorKind::ConnectionRefused if userspace => {
            DeviceError::DaemonGone(interface.to_owned())
        }
        io::ErrorKind::PermissionDenied if userspace => {
            DeviceError::Shut { interface: interface.to_owned(), socket: socket(interface), source }
        }
        _ => DeviceError::Refused { interface: interface.to_owned(), verb, source },
    }
}

/// Where a device is: its name, and the network namespace that it was moved to, if any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct At {
    interface: String,
    netns: Option<Netns>,
}

impl From<&PathConfig> for At {
    fn from(path: &PathConfig) -> Self {
        Self { interface: path.interface.clone(), netns: path.workload.netns().cloned() }
    }
}

impl From<&String> for At {
    fn from(interface: &String) -> Self {
        interface.as_str().into()
    }
}

impl From<&str> for At {
    fn from(interface: &str) -> Self {
        Self { interface: interface.to_owned(), netns: None }
    }
}

/// A read under way: several can be asked at once, and waited for together.
#[derive(Debug)]
pub struct Asked {
    interface: String,
    answer: Pending<Result<Device, DeviceError>>,
}

/// Asks the interface what it is; for [`Asked::wait`].
pub fn ask(at: impl Into<At>) -> Asked {
    let At { interface, netns } = at.into();
    let owned = interface.clone();
    let answer = bounded::start(&interface, move || within(netns.as_ref(), || read_now(&owned))?);
    Asked { interface, answer }
}

/// The devices of all paths, in their order, within `limit` together. The kernel's are read by one
/// thread; userspace ones, and those of other network namespaces, by one each: each may hang by itself.
pub fn read_all(paths: &[PathConfig], limit: Duration) -> Vec<Result<DeviceView, DeviceError>> {
    let is_alone = |path: &PathConfig| {
        let kernels = matches!(socket(&path.interface).try_exists(), Ok(false));
        !kernels || path.workload.netns().is_some()
    };
    let together = paths.iter().filter(|path| !is_alone(path));
    let together: Vec<String> = together.map(|path| path.interface.clone()).collect();
    let of_kernel = bounded::start("the kernel's WireGuard devices", move || {
        together.iter().map(|interface| read_now(interface)).collect::<Vec<_>>()
    });
    let asked: Vec<Option<Asked>> =
        paths.iter().map(|path| is_alone(path).then(|| ask(path))).collect();
    let mut of_kernel = of_kernel.wait(limit.min(DEVICE_TIMEOUT)).map(Vec::into_iter);
    let read = |(path, asked): (&PathConfig, Option<Asked>)| match (asked, &mut of_kernel) {
        (Some(asked), _) => asked.wait(limit),
        (None, Ok(read)) => match read.next() {
            Some(device) => device.map(|device| DeviceView::of(&device)),
            None => Err(DeviceError::Missing(path.interface.clone())),
        },
        (None, Err(source)) => {
            Err(DeviceError::Hung { interface: path.interface.clone(), source: *source })
        }
    };
    paths.iter().zip(asked).map(read).collect()
}

fn read_now(interface: &str) -> Result<Device, DeviceError> {
    let (_, backend) = find(interface)?;
    let userspace = backend == Backend::Userspace;
    tracing::trace!(interface, userspace, "read");
    let device = if userspace {
        wireguard::read_userspace(&socket(interface), DEVICE_TIMEOUT)
    } else {
        wireguard::read_kernel(interface)
    };
    device.map_err(|source| match source.kind() {
        io::ErrorKind::TimedOut => {
            DeviceError::Hung { interface: interface.to_owned(), source: TimedOut(DEVICE_TIMEOUT) }
        }
        io::ErrorKind::InvalidData => {
            DeviceError::Malformed { interface: interface.to_owned(), source }
        }
        _ => refused(interface, "read", source),
    })
}

impl Asked {
    /// Waits until `limit` after it was asked, and no longer than a device may take.
    pub fn wait(self, limit: Duration) -> Result<DeviceView, DeviceError> {
        self.device(limit).map(|device| DeviceView::of(&device))
    }

    fn device(self, limit: Duration) -> Result<Device, DeviceError> {
        let Self { interface, answer } = self;
        let answer = answer.wait(limit.min(DEVICE_TIMEOUT));
        answer.map_err(|source| DeviceError::Hung { interface, source })?
    }
}

pub fn read(at: impl Into<At>) -> Result<DeviceView, DeviceError> {
    ask(at).wait(DEVICE_TIMEOUT)
}

/// A userspace daemon that hears that its device came up opens its socket within a second:
/// wireguard-go looks that often.
const SOCKET_ATTEMPTS: u32 = 15;
const SOCKET_PAUSE: Duration = Duration::from_millis(100);

/// Sockets of this network namespace, by the kernel's own table of each family.
const UDP_SOCKETS: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Whether the device sends its encrypted packets from another network namespace than the one it is
/// in: it was made there and moved, and no rule here sees them. Known by its port, for which there is
/// no socket here; of a device that is down nothing is known.
pub fn sends_from_elsewhere(interface: &str) -> Result<bool, DeviceError> {
    for _ in 0..SOCKET_ATTEMPTS {
        if !lacks_socket(interface)? {
            return Ok(false);
        }
        thread::sleep(SOCKET_PAUSE);
    }
    lacks_socket(interface)
}

/// Whether the device is up and has a port for which there is no socket here.
fn lacks_socket(interface: &str) -> Result<bool, DeviceError> {
    let device = ask(interface).device(DEVICE_TIMEOUT)?;
    let is_up = Link::read(interface).is_ok_and(|link| link.is_some_and(|link| link.up));
    let Some(port) = device.listen_port.filter(|port| *port != 0 && is_up) else {
        return Ok(false);
    };
    // A table that cannot be read shows nothing.
    let tables: Vec<String> =
        UDP_SOCKETS.iter().filter_map(|table| fs::read_to_string(table).ok()).collect();
    Ok(!tables.is_empty() && !tables.iter().any(|table| has_port(table, port)))
}

/// Whether a socket of the table is bound to the port: the second column is `address:port`.
fn has_port(table: &str, port: u16) -> bool {
    let port = format!("{port:04X}");
    table.lines().skip(1).any(|line| {
        let local = line.split_ascii_whitespace().nth(1).unwrap_or_default();
        local.rsplit_once(':').is_some_and(|(_, its)| its == port)
    })
}

/// One bounded change of an interface that exists.
fn change(
    at: At,
    verb: &'static str,
    update: impl FnOnce(&InterfaceName, Backend) -> io::Result<()> + Send + 'static,
) -> Result<(), DeviceError> {
    let At { interface, netns } = at;
    let owned = interface.clone();
    let answer = bounded(&interface, DEVICE_TIMEOUT, move || {
        let apply = || {
            let (name, backend) = find(&owned)?;
            if backend == Backend::Userspace {
                // Where nobody listens, the backend would start a daemon.
                UnixStream::connect(socket(&owned))
                    .map_err(|source| refused(&owned, verb, source))?;
            }
            update(&name, backend).map_err(|source| refused(&owned, verb, source))
        };
        within(netns.as_ref(), apply)?
    });
    answer.map_err(|source| DeviceError::Hung { interface, source })?
}

/// Whether the device is what [`switch`] would make it, field by field: also what no [`DeviceView`]
/// shows, because it is secret or plays no part in who the peer is.
pub fn is_set(at: impl Into<At>, fwmark: u32, endpoint: &Endpoint) -> Result<bool, DeviceError> {
    let device = ask(at).device(DEVICE_TIMEOUT)?;
    let [peer] = device.peers.as_slice() else {
        return Ok(false);
    };
    let wanted: BTreeSet<(IpAddr, u8)> =
        endpoint.allowed_ips.iter().map(|net| (net.network(), net.prefix_len())).collect();
    // The private key by its public half: the kernel keeps it with some bits set.
    Ok(device.public_key == Some(endpoint.private_key.public())
        && device.fwmark == Some(fwmark)
        && peer.public_key == endpoint.public_key
        && peer.preshared_key == endpoint.preshared_key
        && peer.address == Some(endpoint.address)
        && peer.persistent_keepalive == endpoint.persistent_keepalive
        && peer.allowed == wanted)
}

/// Makes `endpoint` the device's only peer, in one update that sets every field: private key,
/// peer, address, preshared key, allowed addresses, keepalive. No interface, route or rule changes.
///
/// The mark is left out where the device has it: the kernel lets it be set only by who may
/// administer the namespace that the device was made in, which for one that was moved is another.
pub fn switch(at: impl Into<At>, fwmark: u32, endpoint: &Endpoint) -> Result<(), DeviceError> {
    let at = at.into();
    let is_marked = read(at.clone())?.fwmark == Some(fwmark);
    // Replacing all peers also forgets the old peer's preshared key, allowed addresses and
    // counters; a field left out here could otherwise survive where both share a peer key.
    let mut peer = PeerConfigBuilder::new(&Key(*endpoint.public_key.as_bytes()))
        .set_endpoint(endpoint.address)
        .set_persistent_keepalive_interval(endpoint.persistent_keepalive)
        .replace_allowed_ips();
    for net in &endpoint.allowed_ips {
        peer = peer.add_allowed_ip(net.addr(), net.prefix_len());
    }
    if let Some(preshared) = &endpoint.preshared_key {
        peer = peer.set_preshared_key(Key(*preshared.expose()));
    }
    let mut update = DeviceUpdate::new()
        .set_private_key(Key(*endpoint.private_key.expose()))
        .replace_peers()
        .add_peer(peer);
    if !is_marked {
        update = update.set_fwmark(fwmark);
    }
    change(at, "switched", move |name, backend| update.apply(name, backend))
}

/// Takes every peer and the private key off the device, in one update: nothing passes through it
/// until [`switch`] makes an endpoint its peer again.
pub fn disarm(at: impl Into<At>) -> Result<(), DeviceError> {
    let update = DeviceUpdate::new().unset_private_key().replace_peers();
    change(at.into(), "disarmed", move |name, backend| update.apply(name, backend))
}

/// Sets a peer that roamed back to its configured address; session and counters stay.
pub fn set_back(at: impl Into<At>, endpoint: &Endpoint) -> Result<(), DeviceError> {
    let peer = PeerConfigBuilder::new(&Key(*endpoint.public_key.as_bytes()))
        .set_endpoint(endpoint.address);
    let update = DeviceUpdate::new().add_peer(peer);
    change(at.into(), "set back", move |name, backend| update.apply(name, backend))
}
