//! The kinds of workload: how each is named in the config, and how a program becomes part of one.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::volley::SERVICE_PORT;
use crate::addresses::{Ns, TUNNEL};
use crate::container::{BRIDGE, CONTAINER, CONTAINER_V6};
use crate::process::Process;
use crate::scopes::WITH_CGROUPS;
use crate::world::World;

/// The locked user, who is not root and has no capability.
const USER: u32 = 1000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
pub enum Scope {
    Host,
    Interfaces,
    Users,
    Cgroups,
    Netns,
}

impl Scope {
    /// Those that are less than the host.
    pub const SCOPED: [Self; 4] = [Self::Interfaces, Self::Users, Self::Cgroups, Self::Netns];

    pub fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// `workload:` of the config.
    pub fn config(self) -> String {
        match self {
            Self::Host => "host".into(),
            Self::Interfaces => format!("{{interfaces: [{BRIDGE}]}}"),
            Self::Users => format!("{{users: [{USER}]}}"),
            Self::Cgroups => format!("{{cgroups: [{}]}}", cgroup()),
            Self::Netns => format!("{{netns: {}}}", Ns::Container),
        }
    }

    /// The namespace its programs are in.
    pub const fn ns(self) -> Ns {
        match self {
            Self::Interfaces | Self::Netns => Ns::Container,
            Self::Host | Self::Users | Self::Cgroups => Ns::Egress,
        }
    }

    /// Whether its programs have the host's devices and addresses to bind to.
    pub const fn is_on_host(self) -> bool {
        !matches!(self, Self::Interfaces | Self::Netns)
    }

    /// Makes what it consists of; says why where it cannot be had.
    #[track_caller]
    pub(super) fn prepare(self, world: &mut World) -> Result<(), String> {
        match self {
            Self::Host => {}
            // The namespace has a way out by the host until the lock comes: that is its control.
            Self::Interfaces | Self::Netns => {
                world.add_container();
                world.nft(Ns::Egress, &published());
            }
            Self::Users if world.has_users() => {}
            Self::Cgroups if world.mount_cgroups(&cgroup()) => {
                // The host's part, as the manual says: their address was chosen for the uplink.
                world.nft(Ns::Egress, &masquerade());
            }
            Self::Users | Self::Cgroups => return Err("this takes root".into()),
        }
        world.sysctl(self.ns(), "net.ipv4.ping_group_range", "0 2147483647");
        Ok(())
    }

    /// The table of the wall that comes first, and where it is.
    pub(super) const fn first_wall(self) -> (Ns, &'static str) {
        match self {
            Self::Netns => (Ns::Container, "vpn_egress_netns"),
            Self::Host | Self::Interfaces | Self::Users | Self::Cgroups => {
                (Ns::Egress, "vpn_egress")
            }
        }
    }

    /// Runs a program of the lab as this workload, to its end.
    #[track_caller]
    pub fn run(self, world: &World, arguments: &[&str]) -> String {
        let line = self.line(world, arguments);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        world.exec_ok(self.ns(), &line)
    }

    /// Starts one that stays.
    #[track_caller]
    pub fn spawn(self, world: &World, name: &str, arguments: &[&str]) -> Process {
        let line = self.line(world, arguments);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        world.spawn(self.ns(), name, &line)
    }

    fn line(self, world: &World, arguments: &[&str]) -> Vec<String> {
        let before: Vec<String> = match self {
            Self::Host | Self::Interfaces | Self::Netns => Vec::new(),
            Self::Users => [
                "setpriv",
                "--reuid",
                "1000",
                "--regid",
                "1000",
                "--clear-groups",
                "--inh-caps=-all",
            ]
            .map(str::to_owned)
            .into(),
            Self::Cgroups => {
                let procs = format!("/sys/fs/cgroup/{}/cgroup.procs", cgroup());
                let script = format!("{WITH_CGROUPS} && echo $$ > {procs} && exec \"$@\"");
                ["sh", "-c", &script, "sh"].map(str::to_owned).into()
            }
        };
        let lab = world.program_for_all("lab");
        let after = arguments.iter().map(|&word| word.to_owned());
        before.into_iter().chain([lab]).chain(after).collect()
    }
}

/// The cgroups of a machine are shared by all worlds on it.
fn cgroup() -> String {
    format!("vpn-egress-lab-{}", std::process::id())
}

pub(super) fn forget_cgroup(world: &World) {
    let script = format!("{WITH_CGROUPS} && rmdir /sys/fs/cgroup/{}", cgroup());
    world.run(Ns::Egress, &["sh", "-c", &script]);
}

fn masquerade() -> String {
    format!(
        "table inet lab_masquerade {{
    chain postrouting {{ type nat hook postrouting priority srcnat; oifname \"{TUNNEL}\" masquerade; }}
}}
"
    )
}

/// A published port: whoever knocks at the host reaches the container.
fn published() -> String {
    format!(
        "table inet lab_published {{
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname != \"{BRIDGE}\" meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} meta nfproto ipv4 dnat ip to {CONTAINER}
        iifname != \"{BRIDGE}\" meta l4proto {{ tcp, udp }} th dport {SERVICE_PORT} meta nfproto ipv6 dnat ip6 to {CONTAINER_V6}
    }}
}}
"
    )
}
