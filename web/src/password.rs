//! Passwords against bcrypt hashes. Slow by design, so: never on a thread that serves others, one
//! at a time, and never twice for a password that was right.
//!
//! Must never keep a password: what is remembered is a keyed hash, the key is this process's.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use ring::hmac;
use ring::rand::SystemRandom;
use tokio::sync::Semaphore;

use crate::config::Users;

/// As many can wait for a comparison; at the usual cost of 10 that is about a second.
const WAITING: usize = 16;

/// Users are few; more than this at once are guesses about nothing we need to remember.
const REMEMBERED: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    Right,
    Wrong,
    /// Too many wait to be compared.
    Busy,
}

pub struct Passwords {
    key: hmac::Key,
    right: Arc<Mutex<HashSet<Vec<u8>>>>,
    waiting: Arc<Semaphore>,
    turn: Arc<Semaphore>,
}

impl Passwords {
    pub fn new() -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
            right: Arc::default(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            turn: Arc::new(Semaphore::new(1)),
        })
    }

    /// A keyed hash, so that comparing two tells nothing by its time.
    pub fn tag(&self, parts: &[&[u8]]) -> Vec<u8> {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        context.sign().as_ref().to_vec()
    }

    /// An unknown user costs what a known one costs.
    pub async fn compare(&self, users: &Users, user: &str, password: &[u8]) -> Verdict {
        let known = users.hash(user);
        let Some(hash) = known.or_else(|| users.decoy()) else {
            return Verdict::Wrong;
        };
        // Of the hash as well: a password that was changed is no longer right.
        let tag = self.tag(&[user.as_bytes(), hash.as_bytes(), password]);
        let right = Arc::clone(&self.right);
        if known.is_some() && remembered(&right).contains(&tag) {
            return Verdict::Right;
        }
        let Ok(waiting) = Arc::clone(&self.waiting).try_acquire_owned() else {
            return Verdict::Busy;
        };
        let Ok(turn) = Arc::clone(&self.turn).acquire_owned().await else {
            return Verdict::Busy;
        };
        let (hash, password, known) = (hash.to_owned(), password.to_vec(), known.is_some());
        // Its places go with it: who hangs up does not make room for another guess meanwhile.
        let compared = tokio::task::spawn_blocking(move || {
            let right_one = bcrypt::verify(password, &hash).unwrap_or(false) && known;
            if right_one {
                let mut right = remembered(&right);
                if right.len() >= REMEMBERED {
                    right.clear();
                }
                right.insert(tag);
            }
            drop((turn, waiting));
            right_one
        });
        if compared.await.unwrap_or(false) { Verdict::Right } else { Verdict::Wrong }
    }
}

fn remembered(right: &Mutex<HashSet<Vec<u8>>>) -> std::sync::MutexGuard<'_, HashSet<Vec<u8>>> {
    right.lock().unwrap_or_else(PoisonError::into_inner)
}
