//! What is told to whoever supervises the program, by `sd_notify(3)`: that it is ready, and that it
//! lives. A sign of life goes out only when every loop has gone round since the last one: a loop that
//! hangs ends the signs, and the supervisor starts the program anew.
//!
//! Must never keep a loop waiting, nor end a program whose supervisor does not listen.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// The longest that a loop which rests says nothing: far less than any watchdog's time.
const LONGEST_SILENCE: Duration = Duration::from_secs(10);

/// How often the runtime shows that it runs.
const SECOND: Duration = Duration::from_secs(1);

/// Without a supervisor nothing is told.
#[derive(Clone)]
pub struct Supervisor {
    inner: Arc<Mutex<Inner>>,
}

struct Inner {
    listener: Option<Listener>,
    /// By loop: whether it has gone round since the last sign of life.
    loops: BTreeMap<usize, bool>,
    next: usize,
}

struct Listener {
    socket: UnixDatagram,
    address: SocketAddr,
}

/// One loop of the program. Dropped, it is no longer waited for; but where its thread has panicked
/// it is, in vain.
pub struct Beat {
    supervisor: Supervisor,
    number: usize,
}

impl Supervisor {
    /// The one of the environment (`NOTIFY_SOCKET`), if there is one.
    pub fn of_environment() -> Self {
        let listener = std::env::var_os("NOTIFY_SOCKET").and_then(|address| {
            let listener = Listener::at(&address);
            if let Err(error) = &listener {
                tracing::warn!(%error, "NOTIFY_SOCKET cannot be used: the supervisor hears nothing");
            }
            listener.ok()
        });
        Self::new(listener)
    }

    fn new(listener: Option<Listener>) -> Self {
        let inner = Inner { listener, loops: BTreeMap::new(), next: 0 };
        Self { inner: Arc::new(Mutex::new(inner)) }
    }

    /// The program answers from now on.
    pub fn ready(&self) {
        self.lock().tell("READY=1");
    }

    /// Another loop, without which the program is not alive.
    pub fn expect_loop(&self) -> Beat {
        let mut inner = self.lock();
        let number = inner.next;
        inner.next += 1;
        inner.loops.insert(number, false);
        Beat { supervisor: self.clone(), number }
    }

    /// The runtime that answers is one of them. To be called on it.
    pub fn expect_runtime(&self) {
        let beat = self.expect_loop();
        tokio::spawn(async move {
            loop {
                beat.beat();
                tokio::time::sleep(SECOND).await;
            }
        });
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Flags only: there is nothing that a panic could have left half made.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell(&self, what: &str) {
        let Some(Listener { socket, address }) = &self.listener else { return };
        if let Err(error) = socket.send_to_addr(what.as_bytes(), address) {
            tracing::debug!(%error, what, "the supervisor could not be told");
        }
    }

    fn tell_if_all_live(&mut self) {
        if !self.loops.is_empty() && self.loops.values().all(|round| *round) {
            self.tell("WATCHDOG=1");
            self.loops.values_mut().for_each(|round| *round = false);
        }
    }
}

impl Listener {
    fn at(address: &OsStr) -> io::Result<Self> {
        let address = match address.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            path => SocketAddr::from_pathname(OsStr::from_bytes(path))?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket, address })
    }
}

impl Beat {
    /// The loop has gone round.
    pub fn beat(&self) {
        let mut inner = self.supervisor.lock();
        inner.loops.insert(self.number, true);
        inner.tell_if_all_live();
    }

    /// Sleeps; a loop that rests is alive.
    pub fn rest(&self, mut time: Duration) {
        loop {
            self.beat();
            let nap = time.min(LONGEST_SILENCE);
            if nap.is_zero() {
                return;
            }
            thread::sleep(nap);
            time -= nap;
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        if thread::panicking() {
            return;
        }
        let mut inner = self.supervisor.lock();
        inner.loops.remove(&self.number);
        inner.tell_if_all_live();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ear(UnixDatagram);

    impl Ear {
        fn of(address: &SocketAddr) -> Self {
            let socket = UnixDatagram::bind_addr(address).expect("bound");
            socket.set_nonblocking(true).expect("set");
            Self(socket)
        }

        /// A datagram is there as soon as it was sent.
        fn heard(&self) -> Vec<String> {
            let mut heard = Vec::new();
            let mut buffer = [0; 64];
            while let Ok(length) = self.0.recv(&mut buffer) {
                heard.push(String::from_utf8_lossy(&buffer[..length]).into_owned());
            }
            heard
        }
    }

    fn pair() -> (tempfile::TempDir, Ear, Supervisor) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("notify");
        let ear = Ear::of(&SocketAddr::from_pathname(&path).expect("an address"));
        let listener = Listener::at(path.as_os_str()).expect("an address");
        (directory, ear, Supervisor::new(Some(listener)))
    }

    #[test]
    fn a_sign_of_life_needs_a_round_of_every_loop() {
        let (_directory, ear, supervisor) = pair();
        let (care, cycle) = (supervisor.expect_loop(), supervisor.expect_loop());
        supervisor.ready();
        assert_eq!(ear.heard(), ["READY=1"]);
        for _ in 0..3 {
            care.beat();
        }
        assert_eq!(ear.heard(), [""; 0], "the other hangs");
        cycle.beat();
        assert_eq!(ear.heard(), ["WATCHDOG=1"]);
        cycle.beat();
        assert_eq!(ear.heard(), [""; 0], "each sign needs a round of its own");
        care.rest(Duration::from_nanos(1));
        assert_eq!(ear.heard(), ["WATCHDOG=1"], "who rests is alive");
    }

    #[test]
    fn a_loop_that_ends_is_not_waited_for_and_one_that_died_is() {
        let (_directory, ear, supervisor) = pair();
        let (stays, ends) = (supervisor.expect_loop(), supervisor.expect_loop());
        stays.beat();
        drop(ends);
        assert_eq!(ear.heard(), ["WATCHDOG=1"]);
        let dies = supervisor.expect_loop();
        let ended = thread::spawn(move || {
            let _mine = dies;
            panic!("as a test wants it");
        });
        ended.join().expect_err("it panicked");
        stays.beat();
        assert_eq!(ear.heard(), [""; 0]);
    }

    #[test]
    fn a_name_without_a_file_is_heard_and_a_supervisor_that_is_gone_harms_nothing() {
        let name = format!("vpn-egress/notify-{}", std::process::id());
        let ear = Ear::of(&SocketAddr::from_abstract_name(&name).expect("an address"));
        let listener = Listener::at(OsStr::new(&format!("@{name}"))).expect("an address");
        let supervisor = Supervisor::new(Some(listener));
        supervisor.ready();
        assert_eq!(ear.heard(), ["READY=1"]);
        drop(ear);
        supervisor.ready();
        supervisor.expect_loop().beat();
        Supervisor::new(None).ready();
    }
}
