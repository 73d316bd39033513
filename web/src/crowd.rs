//! Places for connections. Where all are taken, the one that has gone longest without an event yields
//! to the newcomer: an idle crowd keeps nobody out, however large and from wherever. Nobody yields
//! unheard, or before it had its time to speak: that bounds how fast a flood is taken in, and whoever
//! means well is through with its request by then.
//!
//! Must never end a connection whose request is being acted on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use crate::large::{Large, LargeBuffer};

/// Two Prometheis, two Alertmanagers, some people. The rest is room for those who mean no good: the
/// more of it, the longer a newcomer has before a flood can push it out; and what each may hold of
/// memory (16 KiB of headers, 16 KiB of body) times this is what a crowd can hold.
const PLACES: usize = 256;

/// Those with credentials yield last while they hold no more places than this; beyond, their oldest
/// yields first: a client that leaks connections must not keep its colleagues out.
const PRIVILEGED: usize = PLACES / 2;

/// What each has from its arrival, its TLS handshake and each answered request on. Several round
/// trips and turns of a busy machine; and a full house still takes in 2,560 a second, so that a full
/// backlog has had its turn in a fraction of one: [`crate::listen::BACKLOG`].
pub(crate) const TENURE: Duration = Duration::from_millis(100);

/// In a full house newcomers come in one after the other: a flood that came in at once would have had
/// its time at once, and until then there would be no room in the backlog. As many in their time as
/// there are places.
const PACE: Duration = Duration::from_micros(390);

/// How far the pace may be made up for: timers are no more exact than a few milliseconds.
const BEHIND: Duration = Duration::from_millis(5);

#[derive(Default)]
pub struct Crowd {
    members: Mutex<Members>,
    /// Somebody left, or can be made to.
    left: Notify,
    large: LargeBuffer,
}

/// Why nobody can come in.
#[derive(Debug, PartialEq, Eq)]
enum Full {
    /// Nobody can be asked to leave.
    Nobody,
    /// Who yields next has time until then, or the pace is kept.
    Until(Instant),
}

#[derive(Default)]
struct Members {
    next: u64,
    /// When the next one may come in by the pace.
    paced: Option<Instant>,
    by_id: HashMap<u64, Member>,
    /// Those who can be asked to leave, and who first.
    by_rank: BTreeMap<Rank, u64>,
}

/// Without credentials first, then whose latest event is longest ago; the id makes it unique.
type Rank = (bool, Instant, u64);

struct Member {
    /// Whether it has shown credentials.
    proven: bool,
    /// Its latest event: arrival, handshake or answered request.
    since: Instant,
    /// Whether what it had sent when it came has been read.
    heard: bool,
    acting: bool,
    leave: Arc<Notify>,
}

/// A connection's place; given up when dropped.
pub struct Place {
    id: u64,
    leave: Arc<Notify>,
    crowd: Arc<Crowd>,
}

impl Crowd {
    /// A place for a newcomer; waits while all others are being acted on, unheard, or in their time.
    pub async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let left = self.left.notified();
            let entered = self.lock().enter(Instant::now());
            match entered {
                Ok((id, leave)) => return Place { id, leave, crowd: Arc::clone(self) },
                Err(Full::Nobody) => left.await,
                Err(Full::Until(until)) => {
                    let _ = tokio::time::timeout_at(until.into(), left).await;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    /// A newcomer, for whom another may have to leave.
    fn enter(&mut self, now: Instant) -> Result<(u64, Arc<Notify>), Full> {
        if self.by_id.len() >= PLACES {
            let (id, until) = self.first().ok_or(Full::Nobody)?;
            let paced = self.paced.unwrap_or(now);
            if until.max(paced) > now {
                return Err(Full::Until(until.max(paced)));
            }
            let earliest = now.checked_sub(BEHIND).unwrap_or(now);
            self.paced = Some(paced.max(earliest) + PACE);
            if let Some(member) = self.remove(id) {
                member.leave.notify_one();
            }
        }
        let (id, leave) = (self.next, Arc::new(Notify::new()));
        self.next += 1;
        let member = Member {
            proven: false,
            since: now,
            heard: false,
            acting: false,
            leave: Arc::clone(&leave),
        };
        self.insert(id, member);
        Ok((id, leave))
    }

    fn change(&mut self, id: u64, change: impl FnOnce(&mut Member)) {
        if let Some(mut member) = self.remove(id) {
            change(&mut member);
            self.insert(id, member);
        }
    }

    /// Who yields next, and from when on.
    fn first(&self) -> Option<(u64, Instant)> {
        let privileged = self.by_id.values().filter(|member| member.proven).count();
        let of_them = self.by_rank.iter().find(|((proven, ..), _)| *proven);
        let of_them = of_them.filter(|_| privileged > PRIVILEGED);
        let ((_, since, _), id) = of_them.or_else(|| self.by_rank.first_key_value())?;
        Some((*id, *since + TENURE))
    }

    fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.by_id.remove(&id)?;
        self.by_rank.remove(&member.rank(id));
        Some(member)
    }

    fn insert(&mut self, id: u64, member: Member) {
        if member.heard && !member.acting {
            self.by_rank.insert(member.rank(id), id);
        }
        self.by_id.insert(id, member);
    }
}

impl Member {
    fn heard(&mut self, now: Instant) {
        (self.heard, self.since) = (true, now);
    }

    fn completed(&mut self, now: Instant) {
        (self.acting, self.since) = (false, now);
    }

    fn rank(&self, id: u64) -> Rank {
        (self.proven, self.since, id)
    }
}

impl Place {
    /// Returns when the place is to be given up.
    pub async fn yielded(&self) {
        self.leave.notified().await;
    }

    /// What it had sent by now has been read: as it came, or after its handshake.
    pub fn heard(&self) {
        self.change(|member| member.heard(Instant::now()));
        self.crowd.left.notify_one();
    }

    pub fn proven(&self) {
        self.change(|member| member.proven = true);
    }

    /// Its request is whole, and is answered whatever comes.
    pub fn acting(&self) {
        self.change(|member| member.acting = true);
    }

    pub fn completed(&self) {
        self.change(|member| member.completed(Instant::now()));
        self.crowd.left.notify_one();
    }

    /// The large buffer, when it is this one's turn; `None` where too many wait.
    pub async fn large(&self) -> Option<Large> {
        self.crowd.large.turn().await
    }

    fn change(&self, change: impl FnOnce(&mut Member)) {
        self.crowd.lock().change(self.id, change);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.id);
        self.crowd.left.notify_one();
    }
}

#[cfg(test)]
#[path = "crowd_tests.rs"]
mod tests;
