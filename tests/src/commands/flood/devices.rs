//! The devices that lead out: found anew all the time, for one may be renamed or plugged in.

use std::fs;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use lab::addresses::TUNNEL;
use lab::container::{BRIDGE, PORT};

/// A device that appears is used this soon.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Clone)]
pub struct Devices {
    names: Arc<Mutex<Vec<String>>>,
}

impl Devices {
    pub fn watch() -> io::Result<Self> {
        let devices = Self { names: Arc::new(Mutex::new(uplinks()?)) };
        let names = Arc::clone(&devices.names);
        thread::spawn(move || {
            loop {
                // A device that goes while it is looked at: next time.
                if let Ok(found) = uplinks() {
                    *names.lock().unwrap_or_else(PoisonError::into_inner) = found;
                }
                thread::sleep(LOOK);
            }
        });
        Ok(devices)
    }

    /// One of them in turn.
    pub fn one(&self, number: u64) -> io::Result<String> {
        let names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let count = u64::try_from(names.len()).unwrap_or(1).max(1);
        let index = usize::try_from(number % count).unwrap_or(0);
        names.get(index).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

fn uplinks() -> io::Result<Vec<String>> {
    let mut names: Vec<String> = fs::read_dir("/sys/class/net")?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|name| ![TUNNEL, BRIDGE, PORT, "lo"].contains(&name.as_str()))
        .collect();
    names.sort();
    Ok(names)
}
