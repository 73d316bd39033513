//! The rows: what goes wrong, and how it is made to.

use std::fs;
use std::time::Duration;

use clap::ValueEnum;
use lab::addresses::{Endpoint, WORLD_HOLE};
use lab::programs::{kill, leak, tunnel_down};
use lab::{Direction, Keepalive, Kind, Leak, World, eventually};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};

use crate::cell::Stage;
use crate::lock::{Lock, config};

const SOON: Duration = Duration::from_secs(30);
/// Packets of each kind that are sent from another address, before the first one comes back.
const RENUMBERED: u64 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Fault {
    Nothing,
    TunnelDeleted,
    TunnelRecreated,
    ProcessKilled,
    EndpointBlackholed,
    RoutesRemoved,
    RulesRemoved,
    UplinkDownUp,
    AddressChanged,
    NewDefaultRoute,
    SecondUplink,
    UplinkRenamed,
    FlushRuleset,
    FlushAndTunnelDeleted,
    RestartNftables,
    TablesDeleted,
    AcceptInserted,
    PolicyChanged,
    ProgramsKilled,
    ProgramsStopped,
    StateUnreadable,
    DiskFull,
    ContainerRestarted,
    Failover,
    HardStop,
    Converge,
}

impl Fault {
    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    pub const fn title(self) -> &'static str {
        match self {
            Self::Nothing => "none: all is well",
            Self::TunnelDeleted => "tunnel device deleted",
            Self::TunnelRecreated => "tunnel device recreated",
            Self::ProcessKilled => "WireGuard's process killed",
            Self::EndpointBlackholed => "endpoint blackholed",
            Self::RoutesRemoved => "the tunnel's routes removed",
            Self::RulesRemoved => "policy rules removed",
            Self::UplinkDownUp => "uplink down and up",
            Self::AddressChanged => "uplink's address changed, and back",
            Self::NewDefaultRoute => "new default route (0/1 and 128/1)",
            Self::SecondUplink => "second uplink plugged in",
            Self::UplinkRenamed => "uplink renamed",
            Self::FlushRuleset => "`nft flush ruleset`",
            Self::FlushAndTunnelDeleted => "flush, and tunnel device deleted",
            Self::RestartNftables => "nftables.service restarted, foreign rules",
            Self::TablesDeleted => "our tables deleted",
            Self::AcceptInserted => "`accept` at the head of our chains",
            Self::PolicyChanged => "our chains' policy set to `accept`",
            Self::ProgramsKilled => "actuator and exporter SIGKILLed",
            Self::ProgramsStopped => "actuator and exporter SIGSTOPped",
            Self::StateUnreadable => "state unreadable, actuator restarted",
            Self::DiskFull => "disk full, then a failover",
            Self::ContainerRestarted => "container restarted",
            Self::Failover => "a failover",
            Self::HardStop => "a hard stop, and its release",
            Self::Converge => "rules replaced, ten converges",
        }
    }

    /// Where our lock is known to be open until the daemon's next look, about a second: see section
    /// 13 of `DESIGN.md`. Nothing else is excused.
    pub fn is_known_gap(self, kind: Kind) -> bool {
        match self {
            // The killswitch holds; the watch is not attached to the device yet.
            Self::SecondUplink | Self::UplinkRenamed => kind.is_raw(),
            _ => false,
        }
    }

    /// Whether nothing is to come of it but what was before: then the lock must stand at the end.
    pub const fn is_survived(self) -> bool {
        !matches!(self, Self::StateUnreadable | Self::DiskFull | Self::ProgramsStopped)
    }

    /// What has to be there before the lock.
    pub fn prepare(self, world: &World) {
        if self == Self::DiskFull {
            let state = world.scratch().join("state");
            fs::create_dir_all(&state).expect("a directory");
            let mounted = std::process::Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=64k,mode=0700", "tmpfs"])
                .arg(&state)
                .status()
                .expect("mount runs");
            assert!(mounted.success(), "a small disk: {mounted}");
        }
    }

    /// Does it; what concerns our programs only is nothing under another lock.
    pub fn commit(self, stage: &mut Stage) {
        let ours = stage.lock == Lock::Ours;
        let world = &mut stage.world;
        match self {
            Self::TunnelDeleted => world.delete_tunnel_link(),
            Self::TunnelRecreated => {
                world.delete_tunnel();
                world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
            }
            Self::ProcessKilled => {
                if !world.kill_wireguard() {
                    // The kernel is WireGuard: its device is all that can go.
                    world.delete_tunnel_link();
                }
            }
            Self::EndpointBlackholed => world.blackhole(Endpoint::A, Direction::Both),
            Self::RoutesRemoved => world.remove_tunnel_routes(),
            Self::RulesRemoved => world.remove_policy_rules(),
            Self::UplinkDownUp => {
                world.uplink_down();
                world.uplink_up();
            }
            // A flow from before has no address to be sent from until its own is back.
            Self::AddressChanged => {
                world.change_address();
                stage.await_tries(RENUMBERED);
                stage.world.restore_address();
                stage.world.route_outside(WORLD_HOLE);
            }
            Self::NewDefaultRoute => world.add_default_route(),
            Self::SecondUplink => world.plug_second_uplink(),
            Self::UplinkRenamed => world.rename_uplink("eth9"),
            Self::FlushRuleset => world.flush_ruleset(),
            Self::FlushAndTunnelDeleted => {
                world.flush_ruleset();
                world.delete_tunnel_link();
            }
            Self::RestartNftables => world.restart_nftables(),
            Self::TablesDeleted => drop(world.delete_our_tables()),
            Self::AcceptInserted => drop(world.insert_accept()),
            Self::PolicyChanged => drop(world.change_policy()),
            Self::ProgramsKilled => stage.programs.iter_mut().for_each(kill),
            Self::ProgramsStopped => {
                stage.programs.iter_mut().for_each(|program| program.kill(Signal::SIGSTOP));
            }
            Self::ContainerRestarted => {
                stage.end_container();
                stage.world.stop_container();
                stage.world.start_container();
                stage.flood_new_container();
            }
            Self::Failover if ours => failover(world),
            Self::Failover => world.switch_tunnel(Endpoint::B, Keepalive::EVERY_25_S),
            Self::StateUnreadable if ours => {
                fs::write(world.state_file(), "{").expect("written");
                kill(&mut stage.programs[0]);
                stage.programs[0] = world.start_actuator();
            }
            Self::DiskFull if ours => {
                fill(world);
                world.blackhole(Endpoint::A, Direction::Both);
                // Whatever comes of it: what counts is what the router sees.
                world.notify(&[tunnel_down("primary")]);
                world.actuator(&["converge"]);
            }
            Self::HardStop if ours => hard_stop(world),
            Self::Converge if ours => {
                for number in 1..=10 {
                    world.write_config(&config(number));
                    world.actuator_ok(&["converge"]);
                }
            }
            Self::Nothing
            | Self::StateUnreadable
            | Self::DiskFull
            | Self::HardStop
            | Self::Converge => {}
        }
    }
}

fn failover(world: &World) {
    world.blackhole(Endpoint::A, Direction::Both);
    eventually(SOON, "the alert is acted on", || {
        let (_, outcomes) = world.notify_once(&[tunnel_down("primary")]);
        // With frames past the killswitch on the table, the leak wins.
        let done = ["switched", "hard_stopped", "already_stopped"];
        if outcomes.iter().any(|outcome| done.contains(&outcome.as_str())) {
            Ok(())
        } else {
            Err(outcomes)
        }
    });
}

fn hard_stop(world: &World) {
    world.send_outside(Leak::Packet, 1);
    let (_, outcomes) = world.notify(&[leak()]);
    assert!(outcomes == ["hard_stopped"] || outcomes == ["already_stopped"], "{outcomes:?}");
    world.actuator_ok(&["release", "--reason", "a row of the matrix"]);
}

/// Writes until nothing more fits.
fn fill(world: &World) {
    let file = world.scratch().join("state/filling");
    let page = [0_u8; 4096];
    let mut all = Vec::new();
    while fs::write(&file, &all).is_ok() {
        all.extend(page);
    }
}
