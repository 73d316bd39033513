//! The lock before there is a daemon, or where none can start: as converged, and where that is not
//! known a lock that permits nothing. Creates no state, takes no lock off, and never puts a weaker
//! one in its place.
//!
//! The network of a boot waits for it, so it never gives up: a slow `nft` is waited for, and what fails
//! is tried again. Rules that refuse everything come first, and go with the load of the lock.

use std::io::Write as _;
use std::path::Path;
use std::thread;
use std::time::Duration;

use egress::config::{Config, ConfigError};
use egress::error::chain;
use egress::firewall::{self, NftError, Rules, StopKind, Walls};
use egress::pins;
use egress::process::Patience;
use egress::state::{StateError, Store};

use crate::control::{Reply, exit};
use crate::removed;

/// What is to be in the kernel.
#[derive(Default)]
struct Lock {
    rules: Vec<Rules>,
    cut: Vec<(Rules, StopKind)>,
}

impl Lock {
    /// It permits nothing, for nobody knows what was converged.
    fn blank() -> Self {
        Self { rules: vec![Rules::blank()], ..Self::default() }
    }
}

/// Between two attempts: the first is as good as at once, and the longest is short to somebody who
/// has just installed `nftables` at the console.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// `actuator killswitch load`: returns once the lock is loaded.
pub fn load(config_file: &Path, store: &Store) -> Reply {
    let mut pause = FIRST_PAUSE;
    loop {
        match Patience::Forever.during(|| load_once(config_file, store)) {
            Ok(reply) => return reply,
            // It will not be permitted later either.
            Err(error @ NftError::NotPermitted { .. }) => {
                return Reply::refused(vec![chain(error)]);
            }
            Err(error) => report(&chain(error), pause),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// To stderr, which the boot's unit shows on the console: there may be no other way to this host.
fn report(why: &str, pause: Duration) {
    let meanwhile = if firewall::is_all_denied() {
        "everything but DHCP and neighbour discovery is refused"
    } else {
        "a boot keeps the network down"
    };
    let seconds = pause.as_secs();
    let said = format!(
        "actuator: the lock is not loaded: {why}. Until it is, {meanwhile}; next attempt in \
         {seconds} s. To have the network without a lock: actuator unlock --reason TEXT"
    );
    // Nobody may be reading, and the next attempt is made all the same.
    let _ = writeln!(std::io::stderr(), "{said}");
}

fn load_once(config_file: &Path, store: &Store) -> Result<Reply, NftError> {
    match pins::config(config_file, store) {
        Ok(config) => put(&as_converged(&config, store)).map(|said| Reply::done(vec![said])),
        Err(error) => without_config(&error, store),
    }
}

/// For a daemon that cannot start: what is loaded already is better, or as good.
pub fn load_if_unlocked(config_file: &Path, store: &Store) -> Vec<String> {
    if firewall::is_locked().unwrap_or(false) {
        return Vec::new();
    }
    load_once(config_file, store).map_or_else(|error| vec![chain(error)], |reply| reply.lines)
}

/// For `status`, where no config can be read: what is in force all the same.
pub fn in_force() -> String {
    match Walls::read() {
        Ok(walls) if walls.is_blank() => {
            "stopped: the lock permits nothing until a config can be read; mend it, then \
             `actuator converge`"
        }
        Ok(walls) if walls.killswitch.is_some() => "locked, by the rules converged last",
        Ok(_) if firewall::is_all_denied() => {
            "stopped: the boot's first rules refuse everything, and the lock could not be loaded \
             since; `actuator killswitch load` says why"
        }
        Ok(_) => "unlocked: no killswitch is loaded",
        Err(_) => "unknown: nft cannot be asked",
    }
    .to_owned()
}

fn as_converged(config: &Config, store: &Store) -> Lock {
    let mut lock = Lock::default();
    for path in &config.paths {
        match store.read(&path.name) {
            Ok(state) if state.unlocked.is_some() => {}
            Ok(state) => {
                let latched = state.latch.is_some().then_some(StopKind::Latched);
                let rules = state.intended.map_or_else(|| Rules::of(path), |one| one.rules);
                lock.cut.extend(latched.map(|kind| (rules.clone(), kind)));
                lock.rules.push(rules);
            }
            // S7: missing state on a configured path means stopped.
            Err(error) => {
                tracing::error!(path = %path.name, error = chain(error), "no usable state: stopped");
                lock.cut.push((Rules::of(path), StopKind::NoState));
                lock.rules.push(Rules::of(path));
            }
        }
    }
    for removed in removed::from(config, store).0 {
        let Some(rules) = removed.lock().and_then(|held| removed::left(held, &lock.rules)) else {
            continue;
        };
        if removed.state.latch.is_some() {
            lock.cut.push((rules.clone(), StopKind::Latched));
        }
        lock.rules.push(rules);
    }
    lock
}

/// By the state files alone; where they do not say, a lock that permits nothing. A host without any
/// was never converged: nobody asked for a lock there yet, and a package that was only installed
/// must not cut a host off.
fn without_config(error: &ConfigError, store: &Store) -> Result<Reply, NftError> {
    let why = chain(error);
    let config = |said: &str| Ok(Reply::new(vec![why.clone(), said.to_owned()], exit::CONFIG));
    if firewall::is_locked().unwrap_or(false) {
        return config("the lock that is loaded stays");
    }
    let lock = match recorded(store) {
        Ok(Some(lock)) => lock,
        Ok(None) => return config("this host was never converged: nothing is locked"),
        Err(error) => {
            tracing::error!(error = chain(error), "what was converged is not known");
            Lock::blank()
        }
    };
    let said = put(&lock)?;
    Ok(Reply::new(vec![why, said], exit::CONFIG))
}

/// What the state files say was converged; `None` where there are none.
fn recorded(store: &Store) -> Result<Option<Lock>, StateError> {
    let names = store.names()?;
    if names.is_empty() {
        return Ok(None);
    }
    let mut lock = Lock::default();
    for name in names {
        let state = store.read(&name)?;
        if state.unlocked.is_some() {
            continue;
        }
        let Some(intended) = state.intended else {
            return Ok(Some(Lock::blank()));
        };
        if state.latch.is_some() {
            lock.cut.push((intended.rules.clone(), StopKind::Latched));
        }
        lock.rules.push(intended.rules);
    }
    Ok(Some(lock))
}

fn put(lock: &Lock) -> Result<String, NftError> {
    if lock.rules.is_empty() {
        // Loaded by an attempt before, and unlocked since.
        firewall::lift_deny_all()?;
        return Ok("unlocked by a person: nothing is loaded".to_owned());
    }
    // A lock that is loaded stays in force until it is replaced, and permits more than nothing.
    if !firewall::is_locked().unwrap_or(false)
        && let Err(error) = firewall::deny_all()
    {
        tracing::warn!(error = chain(error), "the rules that refuse everything are not loaded");
    }
    put_walls(lock)?;
    let said = match lock.rules.as_slice() {
        [one] if *one == Rules::blank() => {
            "locked: nothing is permitted but loopback, DHCP and NDP"
        }
        _ if lock.cut.is_empty() => "locked as converged",
        _ => "locked as converged, and stopped",
    };
    Ok(said.to_owned())
}

/// What tightens most comes first; the watch last, for it alone depends on devices.
fn put_walls(lock: &Lock) -> Result<(), NftError> {
    let stopped = |rules: &&Rules| lock.cut.iter().all(|(cut, _)| cut.name != rules.name);
    let living: Vec<Rules> = lock.rules.iter().filter(stopped).cloned().collect();
    if !lock.cut.is_empty() {
        firewall::set_stop(&lock.cut, &living)?;
    }
    firewall::load_killswitch(&lock.rules)?;
    if let Err(error) = firewall::load_watch(&lock.rules) {
        tracing::error!(error = chain(error), "no watch: the killswitch is alone");
    }
    Ok(())
}
