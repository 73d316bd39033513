//! Which address each hostname of a path's endpoints is pinned to: one small file per path, beside
//! its state. Made by a converge, which alone asks DNS; read by whoever reads the config.
//!
//! A killswitch must not depend on DNS: what was pinned holds until a converge pins another.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Config, ConfigError, Host, NoAddress};
use crate::names::PathName;
use crate::state::{StateError, Store, Timestamp, trusted};

/// Of the file's format.
const VERSION: u32 = 1;

/// Of a pins file; a thousand hostnames are 100 kB.
const MOST: u64 = 1024 * 1024;

/// One hostname's address, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pin {
    pub address: IpAddr,
    pub at: Timestamp,
}

/// Of one path.
pub type Pins = BTreeMap<String, Pin>;

#[derive(Serialize, Deserialize)]
struct File {
    version: u32,
    pins: Pins,
}

/// Of a path; none where nothing was pinned, or what was cannot be read: then a converge pins anew.
pub fn read(store: &Store, path: &PathName) -> Pins {
    let file = file(store, path);
    let text = match trusted(&file, MOST) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Pins::new(),
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "pinned addresses cannot be read");
            return Pins::new();
        }
    };
    match serde_json::from_slice::<File>(&text) {
        Ok(found) if found.version <= VERSION => found.pins,
        Ok(_) => {
            tracing::warn!(file = %file.display(), "pinned addresses are of a newer version");
            Pins::new()
        }
        Err(error) => {
            tracing::warn!(file = %file.display(), %error, "pinned addresses are damaged");
            Pins::new()
        }
    }
}

pub fn write(store: &Store, path: &PathName, pins: &Pins) -> Result<(), StateError> {
    let file = file(store, path);
    let whole = File { version: VERSION, pins: pins.clone() };
    let written = serde_json::to_vec_pretty(&whole).map_err(io::Error::from);
    written
        .and_then(|text| store.put(&file, &text))
        .map_err(|source| StateError::Unwritable { file, source })
}

/// The config; a hostname stands for what it is pinned to.
pub fn config(file: &Path, store: &Store) -> Result<Config, ConfigError> {
    Config::load_with(file, &lookup(store))
}

/// The same, compared with the devices of this host.
pub fn config_on(file: &Path, store: &Store, host: &Host<'_>) -> Result<Config, ConfigError> {
    Config::load_for_validate(file, &lookup(store), host)
}

/// For reading a config: a hostname stands for what it is pinned to.
pub fn lookup(store: &Store) -> impl Fn(&PathName, &str) -> Result<IpAddr, NoAddress> + '_ {
    |path, host| read(store, path).get(host).map(|pin| pin.address).ok_or(NoAddress::NotPinned)
}

/// No `.json`: those are the states.
fn file(store: &Store, path: &PathName) -> PathBuf {
    store.directory().join(format!("{path}.pins"))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn what_is_pinned_is_read_again_and_no_path_is_taken_for_a_state() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = Store::new(directory.path().join("state"));
        let path: PathName = "media".parse().expect("a name");
        assert_eq!(lookup(&store)(&path, "de1.example.net"), Err(NoAddress::NotPinned));
        let pin = Pin { address: [198, 51, 100, 1].into(), at: Timestamp(1_800_000_000) };
        let pins = Pins::from([("de1.example.net".to_owned(), pin)]);
        write(&store, &path, &pins).expect("written");
        assert_eq!(read(&store, &path), pins);
        assert_eq!(lookup(&store)(&path, "de1.example.net"), Ok(pin.address));
        let other: PathName = "work".parse().expect("a name");
        assert_eq!(lookup(&store)(&other, "de1.example.net"), Err(NoAddress::NotPinned));
        assert_eq!(store.names().expect("listed"), []);

        fs::write(file(&store, &path), b"torn").expect("written");
        assert_eq!(read(&store, &path), Pins::new());
        fs::write(file(&store, &path), b"{\"version\":2,\"pins\":{}}").expect("written");
        assert_eq!(read(&store, &path), Pins::new());
    }
}
