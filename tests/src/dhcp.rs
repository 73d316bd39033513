//! A lease, as most hosts have their address: busybox's server on the router, its client on the
//! host under test.

use std::time::Duration;

use crate::addresses::{EGRESS, Ns, ROUTER, UPLINK};
use crate::process::Process;
use crate::world::World;

/// The shortest that busybox's client takes.
const LEASE_SECONDS: u32 = 16;

/// What the client does with a lease: the address ends with it, unless it is renewed.
const SCRIPT: &str = r#"#!/bin/sh
case $1 in
bound | renew)
  ip address replace "$ip/24" dev "$interface" valid_lft "$lease" preferred_lft "$lease" &&
    echo "leased $ip"
  ;;
esac
"#;

impl World {
    /// Leases the host its own address.
    #[track_caller]
    pub fn start_dhcp_server(&self) -> Process {
        let leases = self.write_file("udhcpd.leases", "", 0o644);
        let config = format!(
            "start {EGRESS}\nend {EGRESS}\ninterface lan\nmax_leases 1\nmin_lease 1\n\
             lease_file {}\npidfile {}\noption subnet 255.255.255.0\noption router {ROUTER}\n\
             option lease {LEASE_SECONDS}\n",
            leases.display(),
            self.scratch().join("udhcpd.pid").display()
        );
        let config = self.write_file("udhcpd.conf", &config, 0o644);
        self.spawn(Ns::Router, "udhcpd", &["busybox", "udhcpd", "-f", &config.to_string_lossy()])
    }

    /// Holds a lease, and says `leased` in its log each time it gets one or renews it.
    #[track_caller]
    pub fn start_dhcp_client(&self) -> Process {
        let script = self.write_file("udhcpc.sh", SCRIPT, 0o755);
        let line = ["busybox", "udhcpc", "-f", "-i", UPLINK, "-s", &script.to_string_lossy()];
        self.spawn(Ns::Egress, "udhcpc", &line)
    }

    /// Asks for a lease once, and says whether one was given.
    pub fn gets_a_lease(&self) -> bool {
        let line = ["busybox", "udhcpc", "-f", "-n", "-q", "-i", UPLINK, "-s", "/bin/true"];
        self.run_within(Ns::Egress, &line, "", Duration::from_secs(30)).status.success()
    }
}
