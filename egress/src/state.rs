//! What must outlive every process and reboot: one small JSON file per path.
//!
//! Written to a temporary file, synced, renamed; so a reader finds the old one or the new one.
//! Holds no secret. Missing, torn, newer or foreign is never read as healthy (S7).

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::cut::Way;
use crate::fault::{self, Point};
use crate::file::{self, Stamp};
use crate::firewall::{Coverage, Rules};
use crate::names::{EndpointName, PathName};
use crate::pause::PauseClock;
use crate::tunnel::BroughtUp;

pub const DEFAULT_DIRECTORY: &str = "/var/lib/vpn-egress";

/// Of the file's format. A newer one is refused: it may say "stopped" in a way we do not know.
const VERSION: u32 = 1;

/// Of a state file; with two hundred endpoints it is 20 kB.
const MOST: u64 = 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error("path {path} has no state at {file}: run `actuator converge` once")]
    Missing { path: PathName, file: PathBuf },
    #[error(
        "state {file} cannot be read: mend that, or `actuator release --reason TEXT` sets it aside and begins anew"
    )]
    Unreadable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(
        "state {file} is damaged: `actuator release --reason TEXT` sets it aside and begins anew"
    )]
    Damaged {
        file: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error(
        "state {file} is of version {found}, this program knows {VERSION}: upgrade, or set the file aside with `actuator release --reason TEXT`"
    )]
    Newer { file: PathBuf, found: u32 },
    #[error("state {file} cannot be written: free the disk or remount it writable")]
    Unwritable {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// Whole seconds since 1970, as Prometheus shows them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(pub u64);

impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        Self(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
    }
}

impl Timestamp {
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    pub fn time(self) -> SystemTime {
        UNIX_EPOCH.checked_add(Duration::from_secs(self.0)).unwrap_or(UNIX_EPOCH)
    }

    /// Time since then. In the future, because the clock was set back: long ago, for nothing may
    /// wait until a wrong clock's time has come.
    pub fn age(self) -> Duration {
        Self::now().0.checked_sub(self.0).map_or(Duration::MAX, Duration::from_secs)
    }
}

/// Why the path is cut. Latched until a person releases it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Latch {
    pub reason: String,
    pub evidence: String,
    pub at: Timestamp,
    /// By which way the path was seen cut then. `None`: by none yet, or not recorded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Way>,
}

/// A deliberate act, kept with its reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Act {
    pub reason: String,
    pub at: Timestamp,
}

/// What the last completed load read back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intended {
    /// Digests of the tables as the kernel listed them.
    pub killswitch: String,
    pub watch: String,
    /// What they were made from: what is lost is put back from here.
    pub rules: Rules,
    /// The devices that the watch was attached to. Of none in a file of before this was kept, which
    /// is not what there is: the watch is attached again.
    #[serde(default)]
    pub coverage: Coverage,
    /// Which cgroup each name meant: the rules hold the id. One that was not there is not in here.
    #[serde(default)]
    pub cgroups: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathState {
    version: u32,
    pub active: EndpointName,
    /// Why that one, and since when; `None` in files of before this was kept.
    #[serde(default)]
    pub chosen: Option<Act>,
    /// `Some`: hard stop.
    pub latch: Option<Latch>,
    /// `Some`: a person took the lock off.
    pub unlocked: Option<Act>,
    /// No automatic failover until then, by the wall clock; ask `pause_left`.
    #[serde(default)]
    pub paused_until: Option<Timestamp>,
    #[serde(default)]
    pub pause_clock: Option<PauseClock>,
    /// The latest time used in a handshake, to within ten minutes: a clock that is behind it after
    /// a reboot can complete none.
    #[serde(default)]
    pub latest_handshake: Option<Timestamp>,
    /// `Some`: what of the tunnel is ours, and is made again where it is missing.
    #[serde(default)]
    pub brought_up: Option<BroughtUp>,
    pub last_release: Option<Act>,
    pub last_converge: Option<Timestamp>,
    pub intended: Option<Intended>,
    /// Leaked packets up to here have been dealt with.
    pub leak_baseline: u64,
    /// The same of the guard's copy of the watch, which counts where the watch is not there to.
    #[serde(default)]
    pub guard_baseline: u64,
    /// Leaked packets that the guard counted and nobody has dealt with: its counters end with it.
    #[serde(default)]
    pub leaks_carried: u64,
    /// Last switch, release or converge: what follows gets time to settle.
    pub changed: Timestamp,
}

impl PathState {
    pub fn new(active: EndpointName) -> Self {
        Self {
            version: VERSION,
            active,
            chosen: None,
            latch: None,
            unlocked: None,
            paused_until: None,
            pause_clock: None,
            latest_handshake: None,
            brought_up: None,
            last_release: None,
            last_converge: None,
            intended: None,
            leak_baseline: 0,
            guard_baseline: 0,
            leaks_carried: 0,
            changed: Timestamp::now(),
        }
    }
}

/// The directory that holds the files.
#[derive(Debug, Clone)]
pub struct Store {
    directory: PathBuf,
    /// What was read last, and the file that it was read from.
    known: Arc<Mutex<BTreeMap<PathName, Known>>>,
}

#[derive(Debug)]
struct Known {
    stamp: Stamp,
    state: Arc<PathState>,
}

impl Store {
    pub fn new(directory: impl Into<PathBuf>) -> Self {
        Self { directory: directory.into(), known: Arc::default() }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn file(&self, path: &PathName) -> PathBuf {
        self.directory.join(format!("{path}.json"))
    }

    /// The paths that have a state file.
    pub fn names(&self) -> Result<Vec<PathName>, StateError> {
        let unreadable = |source| StateError::Unreadable { file: self.directory.clone(), source };
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unreadable(error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let file = entry.map_err(unreadable)?.file_name();
            let name = file.to_str().and_then(|file| file.strip_suffix(".json"));
            names.extend(name.and_then(|name| name.parse().ok()));
        }
        Ok(names)
    }

    pub fn read(&self, path: &PathName) -> Result<PathState, StateError> {
        self.shared(path).map(|state| PathState::clone(&state))
    }

    /// The same, by reference. The file is read again only where it is another one than before.
    pub fn shared(&self, path: &PathName) -> Result<Arc<PathState>, StateError> {
        let stamp = Stamp::of(&self.file(path));
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(same) = known.get(path).filter(|known| Some(&known.stamp) == stamp.as_ref()) {
            return Ok(Arc::clone(&same.state));
        }
        known.remove(path);
        let state = Arc::new(self.read_file(path)?);
        // Where it was replaced meanwhile, the stamp is that of the older one, and says so.
        if let Some(stamp) = stamp {
            known.insert(path.clone(), Known { stamp, state: Arc::clone(&state) });
        }
        Ok(state)
    }

    fn read_file(&self, path: &PathName) -> Result<PathState, StateError> {
        #[derive(Deserialize)]
        struct Versioned {
            version: u32,
        }
        let file = self.file(path);
        let text = match trusted(&file, MOST) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(StateError::Missing { path: path.clone(), file });
            }
            Err(source) => return Err(StateError::Unreadable { file, source }),
        };
        let versioned: Result<Versioned, _> = serde_json::from_slice(&text);
        match versioned {
            Ok(Versioned { version }) if version > VERSION => {
                Err(StateError::Newer { file, found: version })
            }
            _ => {
                serde_json::from_slice(&text).map_err(|source| StateError::Damaged { file, source })
            }
        }
    }

    pub fn write(&self, path: &PathName, state: &PathState) -> Result<(), StateError> {
        let file = self.file(path);
        self.replace(&file, state)
            .map_err(|source| StateError::Unwritable { file: file.clone(), source })
    }

    fn replace(&self, file: &Path, state: &PathState) -> io::Result<()> {
        self.put(file, &serde_json::to_vec_pretty(state)?)
    }

    /// Puts `text` in the place of what the file held, whole or not at all.
    pub(crate) fn put(&self, file: &Path, text: &[u8]) -> io::Result<()> {
        fs::create_dir_all(&self.directory)?;
        let extension = file.extension().unwrap_or_default().to_string_lossy();
        let temporary = file.with_extension(format!("{extension}.new"));
        // What others may have put there is not followed, nor waited for.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut new =
            OpenOptions::new().write(true).create_new(true).mode(0o644).open(&temporary)?;
        new.write_all(text)?;
        new.write_all(b"\n")?;
        new.sync_all()?;
        fault::point(Point::StateWritten);
        fs::rename(&temporary, file)?;
        fault::point(Point::StateRenamed);
        // The rename itself must survive a power cut too.
        File::open(&self.directory)?.sync_all()
    }

    /// Moves a state that cannot be used out of the way, and says where to.
    pub fn set_aside(&self, path: &PathName) -> Result<PathBuf, StateError> {
        let file = self.file(path);
        // A second one within a second must not take the place of the first.
        let at = Timestamp::now().0;
        let named = |nth| file.with_extension(format!("json.aside-{}", at + nth));
        let free = |aside: &PathBuf| fs::symlink_metadata(aside).is_err();
        let aside = (0..60).map(named).find(free).unwrap_or_else(|| named(0));
        fs::rename(&file, &aside).map_err(|source| StateError::Unwritable { file, source })?;
        fault::point(Point::StateAside);
        Ok(aside)
    }
}

/// What a file of ours holds, if nobody else can have written it.
pub(crate) fn trusted(file: &Path, most: u64) -> io::Result<Vec<u8>> {
    own(file).and_then(|()| file::read(file, most))
}

/// What somebody else can write says nothing: it may have said "stopped" before.
fn own(file: &Path) -> io::Result<()> {
    let found = fs::metadata(file)?;
    let refused = |why: &str| Err(io::Error::new(io::ErrorKind::PermissionDenied, why));
    match whose(found.uid(), nix::unistd::geteuid().as_raw(), found.mode()) {
        Whose::Ours => Ok(()),
        Whose::Foreign => refused("it belongs to somebody else: chown it to root"),
        Whose::Anybodys => refused("everybody may write it: chmod o-w"),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Foreign,
    Anybodys,
}

/// The exporter reads what root has written.
fn whose(owner: u32, reader: u32, mode: u32) -> Whose {
    if owner != 0 && owner != reader {
        Whose::Foreign
    } else if mode & 0o002 != 0 {
        Whose::Anybodys
    } else {
        Whose::Ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store, PathName) {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::new(directory.path().join("state"));
        (directory, store, "media".parse().expect("a name"))
    }

    fn state() -> PathState {
        PathState::new("backup".parse().expect("a name"))
    }

    #[test]
    fn s5_the_choice_survives() {
        let (_directory, store, path) = store();
        let state = state();
        store.write(&path, &state).expect("written");
        assert_eq!(store.read(&path).expect("read"), state);
    }

    #[test]
    fn s7_what_others_can_write_is_not_believed() {
        assert_eq!(whose(0, 0, 0o100_644), Whose::Ours);
        assert_eq!(whose(0, 107, 0o100_644), Whose::Ours, "the exporter's own user reads root's");
        assert_eq!(whose(1000, 1000, 0o100_600), Whose::Ours);
        assert_eq!(whose(1000, 0, 0o100_644), Whose::Foreign);
        assert_eq!(whose(0, 0, 0o100_646), Whose::Anybodys);
    }

    #[test]
    fn s7_what_cannot_be_read_is_an_error_with_a_mend() {
        let (_directory, store, path) = store();
        assert!(matches!(store.read(&path), Err(StateError::Missing { .. })));
        store.write(&path, &state()).expect("written");
        let whole = fs::read(store.file(&path)).expect("read");
        for torn in [&whole[..0], &whole[..whole.len() / 2], b"\0\0\0\0", b"[]", b"{\"version\":1}"]
        {
            fs::write(store.file(&path), torn).expect("written");
            let error = store.read(&path).expect_err("damaged");
            assert!(matches!(error, StateError::Damaged { .. }), "{error}");
            assert!(error.to_string().contains("actuator release"), "{error}");
        }
        fs::write(store.file(&path), &whole).expect("written");
        let open = std::os::unix::fs::PermissionsExt::from_mode(0o646);
        fs::set_permissions(store.file(&path), open).expect("opened");
        let error = store.read(&path).expect_err("anybody's");
        assert!(matches!(error, StateError::Unreadable { .. }), "{error}");
        fs::remove_file(store.file(&path)).expect("removed");
        let pipe = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
        nix::unistd::mkfifo(&store.file(&path), pipe).expect("a pipe");
        let error = store.read(&path).expect_err("a pipe, and no wait for a writer");
        assert!(error.to_string().contains("actuator release"), "{error}");
        fs::remove_file(store.file(&path)).expect("removed");
        fs::write(store.file(&path), b"{\"version\":2,\"latch\":\"new\"}").expect("written");
        assert!(matches!(store.read(&path), Err(StateError::Newer { found: 2, .. })));
        let aside = store.set_aside(&path).expect("set aside");
        assert!(aside.exists() && !store.file(&path).exists());
        fs::create_dir(store.file(&path)).expect("a directory in its place");
        assert_ne!(store.set_aside(&path).expect("set aside"), aside);
    }
}
