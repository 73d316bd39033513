//! The web configuration in force: read anew while the program runs, so that a renewed certificate
//! is served and a removed user kept out without a restart.
//!
//! One that cannot be used leaves the last good one in force: an alert must not wait for a typo.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Mutex as Turn;

use crate::config::{WebConfig, WebConfigError};

/// A change is seen by whoever connects or asks this long after it; a crowd cannot make us read
/// more often.
const FRESH: Duration = Duration::from_secs(1);

/// What has to hold for every configuration that comes into force; the error says the mend.
pub type Demand = Box<dyn Fn(&WebConfig) -> Result<(), String> + Send + Sync>;

pub struct Live {
    file: Option<PathBuf>,
    demand: Demand,
    now: Mutex<Arc<WebConfig>>,
    /// When it was last read, and the latest complaint, which is logged once.
    read: Turn<(Instant, Option<String>)>,
}

impl Live {
    pub fn load(file: Option<PathBuf>, demand: Demand) -> Result<Self, String> {
        let config = match &file {
            Some(file) => WebConfig::load(file).map_err(|error| error.to_string())?,
            None => WebConfig::default(),
        };
        demand(&config)?;
        let (now, read) = (Mutex::new(Arc::new(config)), Turn::new((Instant::now(), None)));
        Ok(Self { file, demand, now, read })
    }

    /// The configuration in force, read anew where that is due.
    pub async fn get(self: &Arc<Self>) -> Arc<WebConfig> {
        // Whoever comes while it is being read goes by the one in force, and does not wait.
        if let Ok(read) = self.read.try_lock()
            && self.file.is_some()
            && read.0.elapsed() >= FRESH
        {
            self.follow(read).await;
        }
        self.in_force()
    }

    /// Reads it now: somebody asks for it, by SIGHUP.
    pub async fn reload(self: &Arc<Self>) {
        self.follow(self.read.lock().await).await;
        tracing::info!("web configuration read anew");
    }

    async fn follow(
        self: &Arc<Self>,
        mut read: tokio::sync::MutexGuard<'_, (Instant, Option<String>)>,
    ) {
        let Some(file) = self.file.clone() else { return };
        let loaded = tokio::task::spawn_blocking(move || WebConfig::load(&file)).await;
        let complaint = match loaded {
            Ok(loaded) => self.replace(loaded).err(),
            Err(_) => Some("the reader ended early".to_owned()),
        };
        if let Some(complaint) = &complaint
            && read.1.as_ref() != Some(complaint)
        {
            tracing::error!(problem = complaint, "web configuration: the last good one stays");
        }
        *read = (Instant::now(), complaint);
    }

    fn replace(&self, loaded: Result<WebConfig, WebConfigError>) -> Result<(), String> {
        let config = loaded.map_err(|error| error.to_string())?;
        let before = self.in_force();
        if config.is_same(&before) {
            return Ok(());
        }
        if config.tls.is_some() != before.tls.is_some() {
            return Err("TLS cannot be switched on or off while running; restart".to_owned());
        }
        (self.demand)(&config)?;
        *self.now.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(config);
        tracing::info!("web configuration has changed and is in force");
        Ok(())
    }

    fn in_force(&self) -> Arc<WebConfig> {
        Arc::clone(&self.now.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
