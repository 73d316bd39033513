//! The config in use: the one that the last `converge` made the host's. An edit on disk is drift
//! until then, and is neither probed nor judged by.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use egress::config::{Config, ConfigError};
use egress::observe::chain;
use egress::pins;
use egress::state::{Store, Timestamp};

pub struct Current {
    file: PathBuf,
    /// Where hostnames are pinned.
    store: Store,
    inner: Mutex<Inner>,
}

struct Inner {
    config: Arc<Config>,
    /// The converge after which it was read.
    converged: Option<Timestamp>,
}

impl Current {
    pub fn load(file: PathBuf, store: &Store) -> Result<Self, ConfigError> {
        let config = Arc::new(pins::config(&file, store)?);
        let converged = converged(&config, store);
        Ok(Self { file, store: store.clone(), inner: Mutex::new(Inner { config, converged }) })
    }

    pub fn get(&self) -> Arc<Config> {
        Arc::clone(&self.lock().config)
    }

    pub fn on_disk(&self) -> Result<Config, ConfigError> {
        pins::config(&self.file, &self.store)
    }

    /// Reads the config anew after a converge; one that cannot be read leaves the old one in use.
    pub fn follow(&self, store: &Store) {
        let mut inner = self.lock();
        let converged = converged(&inner.config, store);
        if converged == inner.converged {
            return;
        }
        match self.on_disk() {
            Ok(config) => {
                *inner = Inner { config: Arc::new(config), converged };
                tracing::info!("config read anew after a converge");
            }
            Err(error) => tracing::warn!(error = chain(error), "config cannot be read anew"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn converged(config: &Config, store: &Store) -> Option<Timestamp> {
    config.paths.iter().filter_map(|path| store.read(&path.name).ok()?.last_converge).max()
}
