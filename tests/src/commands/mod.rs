//! The subcommands, one file each.

pub mod echo;
pub mod frames;
pub mod http;
pub mod leak;
pub mod relay;
mod ordinary;
pub mod traffic;
pub mod up;
