//! The config in use: the one that the last `converge` made the host's. An edit on disk is drift
//! until then, and is neither probed nor judged by.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use egress::config::{Config, ConfigError};
use egress::error::chain;
use egress::file::Stamp;
use egress::firewall::Rules;
use egress::names::PathName;
use egress::pins;
use egress::state::{Store, Timestamp};

/// What each path's rules would be by the file.
pub type Wanted = BTreeMap<PathName, Rules>;

pub struct Current {
    file: PathBuf,
    /// Where hostnames are pinned.
    store: Store,
    inner: Mutex<Inner>,
    on_disk: Mutex<Option<OnDisk>>,
}

struct Inner {
    config: Arc<Config>,
    /// The converge after which it was read.
    converged: Option<Timestamp>,
    /// The state directory when that was looked up: each change of a state is a rename in it.
    directory: Option<Stamp>,
}

/// What the file said, and the files that said so.
struct OnDisk {
    stamps: Vec<(PathBuf, Stamp)>,
    wanted: Arc<Wanted>,
}

impl Current {
    pub fn load(file: PathBuf, store: &Store) -> Result<Self, ConfigError> {
        let directory = Stamp::of(store.directory());
        let config = Arc::new(pins::config(&file, store)?);
        let converged = converged(store);
        let inner = Mutex::new(Inner { config, converged, directory });
        Ok(Self { file, store: store.clone(), inner, on_disk: Mutex::default() })
    }

    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&lock(&self.inner).config)
    }

    /// What the file asks for now. It is read again only where one of its files has changed.
    pub fn on_disk(&self) -> Result<Arc<Wanted>, ConfigError> {
        let mut on_disk = lock(&self.on_disk);
        if let Some(known) = on_disk.as_ref().filter(|known| known.stands()) {
            return Ok(Arc::clone(&known.wanted));
        }
        *on_disk = None;
        let before = Stamp::of(&self.file);
        let config = pins::config(&self.file, &self.store)?;
        let wanted = config.paths.iter().map(|path| (path.name.clone(), Rules::of(path)));
        let wanted: Arc<Wanted> = Arc::new(wanted.collect());
        // Each pin is a rename in the state directory.
        let files = config.files.into_iter().chain([self.store.directory().to_owned()]);
        // A thousand endpoints may share one key file.
        let mut known = BTreeSet::new();
        let files = files.filter(|file| known.insert(file.clone()));
        let stamps = files.map(|file| Some((file.clone(), Stamp::of(&file)?)));
        // A file that changed while it was read, or just now, is read again the next time.
        let stamps: Option<Vec<_>> = stamps.collect();
        let same =
            |stamps: &Vec<(PathBuf, Stamp)>| stamps.first().map(|(_, at)| at) == before.as_ref();
        *on_disk = stamps.filter(same).map(|stamps| OnDisk { stamps, wanted: Arc::clone(&wanted) });
        Ok(wanted)
    }

    /// Reads the config anew after a converge; one that cannot be read leaves the old one in use.
    pub fn follow(&self) {
        let mut inner = lock(&self.inner);
        let directory = Stamp::of(self.store.directory());
        if directory.is_some() && directory == inner.directory {
            return;
        }
        inner.directory = directory;
        let converged = converged(&self.store);
        if converged == inner.converged {
            return;
        }
        match pins::config(&self.file, &self.store) {
            Ok(config) => {
                (inner.config, inner.converged) = (Arc::new(config), converged);
                tracing::info!("config read anew after a converge");
            }
            Err(error) => {
                // Asked again, though no state changes.
                inner.directory = None;
                tracing::warn!(error = chain(error), "config cannot be read anew");
            }
        }
    }
}

impl OnDisk {
    fn stands(&self) -> bool {
        self.stamps.iter().all(|(file, stamp)| Stamp::of(file).as_ref() == Some(stamp))
    }
}

fn lock<T>(inner: &Mutex<T>) -> MutexGuard<'_, T> {
    inner.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The latest converge of any path, also of one that is not in the config yet.
fn converged(store: &Store) -> Option<Timestamp> {
    let names = store.names().unwrap_or_default();
    names.iter().filter_map(|name| store.read(name).ok()?.last_converge).max()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use egress::state::PathState;

    use super::*;

    const KEY: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAEA=";

    /// A config with one path of this fwmark.
    fn text(fwmark: u32) -> String {
        format!(
            "paths:\n  - name: media\n    interface: wg0\n    fwmark: {fwmark}\n    endpoints:\n      \
             - {{name: a, address: \"198.51.100.1:51820\", private_key_file: key, public_key: \"{KEY}\"}}\n"
        )
    }

    #[test]
    fn a_config_that_could_not_be_read_after_a_converge_is_read_when_it_can_be() {
        let directory = tempfile::tempdir().expect("a directory");
        let at = |name: &str| directory.path().join(name);
        let file = at("egress.yml");
        let write = |name: &str, text: &str| {
            fs::write(at(name), text).expect("written");
            fs::set_permissions(at(name), PermissionsExt::from_mode(0o600)).expect("its own");
        };
        write("key", KEY);
        write("egress.yml", &text(1));
        fs::create_dir(at("state")).expect("a directory");
        let store = Store::new(at("state"));
        let current = Current::load(file, &store).expect("a config");
        let fwmark = || current.get().paths[0].fwmark;

        // A converge, and at that very moment the file is half written.
        let path = current.get().paths[0].clone();
        let mut state = PathState::new(path.endpoints[0].name.clone());
        state.last_converge = Some(Timestamp::now());
        store.write(&path.name, &state).expect("a state");
        write("egress.yml", "paths:");
        // Until the directory is told apart by its time, every look reads anew.
        while Stamp::of(store.directory()).is_none() {
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        current.follow();
        assert_eq!(fwmark(), 1, "the old one stays in use");

        // No state changes any more.
        write("egress.yml", &text(2));
        current.follow();
        assert_eq!(fwmark(), 2, "read, though nothing reminded of it");

        // An edit alone is drift.
        write("egress.yml", &text(3));
        current.follow();
        assert_eq!(fwmark(), 2, "no converge was asked for");
    }
}
