//! Places for connections. Where all are taken, the one that has gone longest without completing a
//! request yields to the newcomer: an idle crowd keeps nobody out, however large and from wherever.
//! Nobody yields unheard, so that a flood is accepted no faster than it is dealt with.
//!
//! Must never end a connection whose request is being acted on.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Mutex as Turn, Notify, OwnedMutexGuard, Semaphore};

/// Two Prometheis, two Alertmanagers, some people. The rest is room for those who mean no good: the
/// more of it, the longer a newcomer has before a flood can push it out; and what each may hold of
/// memory (16 KiB of headers, 16 KiB of body) times this is what a crowd can hold.
const PLACES: usize = 256;

/// How many may wait for the one large buffer.
const QUEUE: usize = 4;

pub struct Crowd {
    members: Mutex<Members>,
    /// Somebody left, or can be made to.
    left: Notify,
    /// The one buffer for large bodies: kept, so that it cannot be in several arenas of the heap.
    large: Arc<Turn<Vec<u8>>>,
    queue: Arc<Semaphore>,
}

#[derive(Default)]
struct Members {
    turn: u64,
    by_id: HashMap<u64, Member>,
    /// Those who can be asked to leave, and who first.
    by_rank: BTreeMap<Rank, u64>,
}

/// Without credentials first, then whose latest event is longest ago; no two have the same.
type Rank = (bool, u64);

struct Member {
    /// Whether it has shown credentials.
    proven: bool,
    /// Its latest arrival or completed request, as a count of such events.
    since: u64,
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

/// The large buffer, for as long as it is held.
pub struct Large(OwnedMutexGuard<Vec<u8>>);

impl std::ops::Deref for Large {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl std::ops::DerefMut for Large {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

impl Default for Crowd {
    fn default() -> Self {
        Self {
            members: Mutex::default(),
            left: Notify::new(),
            large: Arc::default(),
            queue: Arc::new(Semaphore::new(QUEUE)),
        }
    }
}

impl Crowd {
    /// A place for a newcomer; waits only while all others are being acted on, or unheard.
    pub async fn enter(self: &Arc<Self>) -> Place {
        loop {
            let left = self.left.notified();
            if let Some(place) = self.try_enter() {
                return place;
            }
            left.await;
        }
    }

    fn try_enter(self: &Arc<Self>) -> Option<Place> {
        let mut members = self.lock();
        if members.by_id.len() >= PLACES {
            let (_, first) = members.by_rank.pop_first()?;
            if let Some(member) = members.by_id.remove(&first) {
                member.leave.notify_one();
            }
        }
        let id = members.next();
        let leave = Arc::new(Notify::new());
        let member = Member {
            proven: false,
            since: id,
            heard: false,
            acting: false,
            leave: Arc::clone(&leave),
        };
        members.insert(id, member);
        Some(Place { id, leave, crowd: Arc::clone(self) })
    }

    fn lock(&self) -> MutexGuard<'_, Members> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Members {
    fn next(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    fn remove(&mut self, id: u64) -> Option<Member> {
        let member = self.by_id.remove(&id)?;
        self.by_rank.remove(&member.rank());
        Some(member)
    }

    fn insert(&mut self, id: u64, member: Member) {
        if member.heard && !member.acting {
            self.by_rank.insert(member.rank(), id);
        }
        self.by_id.insert(id, member);
    }
}

impl Member {
    fn rank(&self) -> Rank {
        (self.proven, self.since)
    }
}

impl Place {
    /// Returns when the place is to be given up.
    pub async fn yielded(&self) {
        self.leave.notified().await;
    }

    pub fn heard(&self) {
        self.change(|member, _| member.heard = true);
        self.crowd.left.notify_one();
    }

    pub fn proven(&self) {
        self.change(|member, _| member.proven = true);
    }

    /// Its request is whole, and is answered whatever comes.
    pub fn acting(&self) {
        self.change(|member, _| member.acting = true);
    }

    pub fn completed(&self) {
        self.change(|member, turn| (member.acting, member.since) = (false, turn));
        self.crowd.left.notify_one();
    }

    /// The large buffer, empty, when it is this one's turn; `None` where too many wait.
    pub async fn large(&self) -> Option<Large> {
        let _waiting = Arc::clone(&self.crowd.queue).try_acquire_owned().ok()?;
        let mut buffer = Arc::clone(&self.crowd.large).lock_owned().await;
        buffer.clear();
        Some(Large(buffer))
    }

    fn change(&self, change: impl FnOnce(&mut Member, u64)) {
        let mut members = self.crowd.lock();
        let turn = members.next();
        if let Some(mut member) = members.remove(self.id) {
            change(&mut member, turn);
            members.insert(self.id, member);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.id);
        self.crowd.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn yields(place: &Place) -> bool {
        !place.crowd.lock().by_id.contains_key(&place.id)
    }

    #[test]
    fn nobody_yields_unheard() {
        let crowd = Arc::new(Crowd::default());
        let places: Vec<Place> = (0..PLACES).map(|_| crowd.try_enter().expect("a place")).collect();
        assert!(crowd.try_enter().is_none());
        places[7].heard();
        let newcomer = crowd.try_enter().expect("one was heard");
        assert!(yields(&places[7]) && !yields(&newcomer));
    }

    #[test]
    fn the_longest_idle_yields_the_proven_last_and_the_acting_never() {
        let crowd = Arc::new(Crowd::default());
        let enter = || {
            let place = crowd.try_enter().expect("a place");
            place.heard();
            place
        };
        let places: Vec<Place> = (0..PLACES).map(|_| enter()).collect();
        places[0].proven();
        places[1].acting();
        places[2].completed();
        let newcomers: Vec<Place> = (0..2).map(|_| enter()).collect();
        assert!([3, 4].iter().all(|&nth| yields(&places[nth])), "the two oldest idle ones yield");
        assert!([0, 1, 2, 5].iter().all(|&nth| !yields(&places[nth])));
        assert!(newcomers.iter().all(|place| !yields(place)));

        let more: Vec<Place> = (0..PLACES).map(|_| enter()).collect();
        assert!(!yields(&places[1]), "what is acted on stays");
        assert!(!yields(&places[0]), "credentials weigh more than age");
        more.iter().for_each(Place::acting);
        places[0].acting();
        assert!(crowd.try_enter().is_none(), "all are acting: the newcomer waits");
        places[1].completed();
        let last = crowd.try_enter().expect("one has ended");
        assert!(yields(&places[1]) && !yields(&last));
    }
}
