//! The one buffer for large bodies. It is kept between them, so that it cannot be in several arenas
//! of the heap; who needs it waits for a turn.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use tokio::sync::{Mutex, OwnedMutexGuard, Semaphore};

/// How many may wait for it at a time.
const QUEUE: usize = 4;

pub struct LargeBuffer {
    buffer: Arc<Mutex<Vec<u8>>>,
    queue: Semaphore,
}

/// The buffer, for as long as it is held.
pub struct Large(OwnedMutexGuard<Vec<u8>>);

impl Default for LargeBuffer {
    fn default() -> Self {
        Self { buffer: Arc::default(), queue: Semaphore::new(QUEUE) }
    }
}

impl LargeBuffer {
    /// The buffer, empty; `None` where too many wait already.
    pub async fn turn(&self) -> Option<Large> {
        let _waiting = self.queue.try_acquire().ok()?;
        let mut buffer = Arc::clone(&self.buffer).lock_owned().await;
        buffer.clear();
        Some(Large(buffer))
    }
}

impl Deref for Large {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.0
    }
}

impl DerefMut for Large {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}
