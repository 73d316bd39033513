//! The subcommands, one file each.

pub mod controller;
pub mod crowd;
pub mod echo;
pub mod flood;
pub mod forwarder;
pub mod frames;
pub mod handover;
pub mod http;
pub mod leak;
pub mod load;
mod ordinary;
pub mod orphan;
pub mod permitted;
pub mod reach;
pub mod relay;
pub mod resolver;
pub mod service;
pub mod session;
pub mod shot;
pub mod sink;
pub mod stepping_out;
pub mod traffic;
pub mod up;
pub mod volley;
pub mod volume;
