//! The subcommands, one file each.

pub mod echo;
pub mod frames;
pub mod http;
pub mod leak;
mod ordinary;
pub mod relay;
pub mod traffic;
pub mod up;
