//! Notifications on their way through the engine, one at a time. Each is handled to its end whether its
//! sender still waits or not; a sender that was told to try again, and sends the same again, is told
//! what became of the first.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, watch};

use crate::engine::{Shared, Verdicts};
use crate::notification::Notification;

/// Notifications that are kept, done or not: as many as there are connections.
const MOST: usize = 256;

/// Alerts that are kept in them: each is some hundred bytes.
const MOST_ALERTS: usize = 20_000;

/// How long it is kept what became of a notification whose sender was not told: Alertmanager tries
/// again within a minute.
const KEPT: Duration = Duration::from_secs(120);

type Outcomes = Option<Arc<Verdicts>>;

/// The notifications that were taken and not answered.
#[derive(Debug)]
pub struct Deliveries {
    turn: Arc<Semaphore>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

#[derive(Debug)]
struct Kept {
    notification: Arc<Notification>,
    outcomes: watch::Receiver<Outcomes>,
    taken: Instant,
}

/// A notification that is being handled.
#[derive(Debug)]
pub struct Handled {
    notification: Arc<Notification>,
    outcomes: watch::Receiver<Outcomes>,
    kept: Arc<Mutex<Vec<Kept>>>,
}

impl Default for Deliveries {
    fn default() -> Self {
        Self { turn: Arc::new(Semaphore::new(1)), kept: Arc::default() }
    }
}

fn locked(kept: &Mutex<Vec<Kept>>) -> MutexGuard<'_, Vec<Kept>> {
    kept.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Deliveries {
    /// Hands a notification to the engine when it is its turn. The same one again joins the first.
    /// `None`: too many are under way.
    pub fn take(&self, notification: Notification, engine: &Shared) -> Option<Handled> {
        let mut kept = locked(&self.kept);
        kept.retain(|one| one.outcomes.borrow().is_none() || one.taken.elapsed() < KEPT);
        if let Some(same) = kept.iter().find(|one| *one.notification == notification) {
            return Some(self.handled(&same.notification, &same.outcomes));
        }
        let alerts: usize = kept.iter().map(|one| one.notification.len()).sum();
        if kept.len() >= MOST || alerts + notification.len() > MOST_ALERTS {
            return None;
        }
        let notification = Arc::new(notification);
        let (done, outcomes) = watch::channel(None);
        let (turn, engine) = (Arc::clone(&self.turn), engine.clone());
        let work = Arc::clone(&notification);
        tokio::spawn(async move {
            let Ok(turn) = turn.acquire_owned().await else { return };
            let handled = tokio::task::spawn_blocking(move || {
                let outcomes = work.handle(&mut engine.lock("an alert"));
                drop(turn);
                outcomes
            });
            if let Ok(outcomes) = handled.await {
                done.send_replace(Some(Arc::new(outcomes)));
            }
        });
        let handled = self.handled(&notification, &outcomes);
        kept.push(Kept { notification, outcomes, taken: Instant::now() });
        Some(handled)
    }

    fn handled(
        &self,
        notification: &Arc<Notification>,
        outcomes: &watch::Receiver<Outcomes>,
    ) -> Handled {
        Handled {
            notification: Arc::clone(notification),
            outcomes: outcomes.clone(),
            kept: Arc::clone(&self.kept),
        }
    }
}

impl Handled {
    /// What became of it. `None`: it was not handled to its end.
    pub async fn outcomes(&mut self) -> Outcomes {
        let done = self.outcomes.wait_for(Option::is_some).await;
        let outcomes = done.ok().and_then(|done| done.clone());
        // The sender is told: the same again is another question.
        locked(&self.kept).retain(|one| !Arc::ptr_eq(&one.notification, &self.notification));
        outcomes
    }
}
