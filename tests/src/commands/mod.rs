//! The subcommands, one file each.

pub mod echo;
pub mod frames;
mod ordinary;
pub mod http;
pub mod leak;
pub mod traffic;
pub mod up;
