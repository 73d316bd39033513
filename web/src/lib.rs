//! What both programs have in common towards the network: an HTTP server with limits, the metrics
//! page, and the flags that operators know from other exporters. Knows nothing of egress paths.

pub mod exposition;
pub mod flags;
pub mod server;

pub use exposition::Exposition;
pub use flags::{LogFlags, WebFlags};
pub use server::{Answer, Request, answer, serve};
