//! Bodies, bounded in size, time and number. A small one needs nobody's leave; a large one waits for
//! the only large buffer, and holds it until it has been dealt with.

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::Body as _;

use crate::crowd::Place;
use crate::large::Large;
use crate::server::Request;

/// About twenty-five alerts. So much may be held for each connection.
pub const SMALL: usize = 16 * 1024;

/// A small body arrives in one go; who takes longer holds a connection for no good reason.
const SMALL_TIME: Duration = Duration::from_secs(10);

/// How long a large body may wait for its turn, and then take to arrive.
const LARGE_WAIT: Duration = Duration::from_secs(5);
const LARGE_TIME: Duration = Duration::from_secs(3);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyError {
    TooLarge,
    /// Did not arrive whole, or not in time.
    Broken,
    /// Other large bodies hold the buffer; try again.
    Busy,
}

/// A whole body. A large one holds the only buffer until it is dropped.
pub enum Body {
    Small(Vec<u8>),
    Large(Large),
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Small(bytes) => bytes,
            Self::Large(bytes) => bytes,
        }
    }
}

/// Reads the body of a request that came by [`crate::serve`].
pub async fn read(request: Request, most: usize) -> Result<Body, BodyError> {
    let place = request.extensions().get::<Arc<Place>>().cloned().ok_or(BodyError::Broken)?;
    let mut body = request.into_body();
    let announced = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if announced > most {
        return Err(BodyError::TooLarge);
    }
    let mut bytes = Vec::new();
    if announced <= SMALL {
        // What is announced and no more: a buffer that doubles would take twice as much.
        bytes.reserve_exact(announced);
        let small = collect(&mut body, &mut bytes, SMALL);
        match tokio::time::timeout(SMALL_TIME, small).await {
            Ok(Ok(true)) => {
                place.acting();
                return Ok(Body::Small(bytes));
            }
            Ok(Ok(false)) => {}
            Ok(Err(())) | Err(_) => return Err(BodyError::Broken),
        }
    }
    let large = tokio::time::timeout(LARGE_WAIT, place.large()).await;
    let mut large = large.ok().flatten().ok_or(BodyError::Busy)?;
    // All that it can need, once: a buffer that grows is copied, and leaves its old places behind.
    // Only what is written to becomes memory.
    large.reserve_exact(most + SMALL);
    large.extend_from_slice(&bytes);
    drop(bytes);
    match tokio::time::timeout(LARGE_TIME, collect(&mut body, &mut large, most)).await {
        Ok(Ok(true)) => {
            place.acting();
            Ok(Body::Large(large))
        }
        Ok(Ok(false)) => Err(BodyError::TooLarge),
        Ok(Err(())) | Err(_) => Err(BodyError::Broken),
    }
}

/// Whether the body ended before there was more of it than `most`; else all of it so far is there.
async fn collect(
    body: &mut hyper::body::Incoming,
    bytes: &mut Vec<u8>,
    most: usize,
) -> Result<bool, ()> {
    while let Some(frame) = body.frame().await {
        if let Some(data) = frame.map_err(|_| ())?.data_ref() {
            bytes.extend_from_slice(data);
        }
        if bytes.len() > most {
            return Ok(false);
        }
    }
    Ok(true)
}
