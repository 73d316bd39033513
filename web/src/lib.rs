//! What both programs have in common towards the network: an HTTP server with limits, TLS and
//! credentials as in Prometheus' own programs, the metrics page, the flags that operators know from
//! other exporters; and the word to the supervisor. Knows nothing of egress paths.

pub mod body;
pub mod config;
mod crowd;
pub mod exposition;
pub mod flags;
pub mod gate;
mod greeting;
mod large;
pub mod listen;
pub mod live;
mod local;
mod password;
mod scrape;
pub mod server;
pub mod supervisor;

pub use exposition::Exposition;
pub use flags::{LogFlags, WebFlags};
pub use gate::{Gate, Refusal, Token};
pub use listen::{beyond_loopback, listen};
pub use live::Live;
pub use local::serve_local;
pub use scrape::scrape_timeout;
pub use server::{Answer, Request, Site, answer, serve};
pub use supervisor::{Beat, Supervisor};
