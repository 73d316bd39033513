//! A host that nobody has set a tunnel up on yet, and a provider's files for it.

use std::path::PathBuf;

use crate::addresses::{
    Endpoint, Ns, TABLE, TUNNEL, TUNNEL_CLIENT, TUNNEL_CLIENT_V6, TUNNEL_SERVER,
};
use crate::topology::sysctl;
use crate::wireguard::preshared_line;
use crate::world::World;

impl World {
    /// Nothing is left of a tunnel, whoever set it up: no device, no rule, no setting.
    #[track_caller]
    pub fn forget_tunnel(&mut self) {
        self.delete_tunnel();
        let script = format!(
            "ip link del {TUNNEL}; for family in -4 -6; do \
             while ip $family rule del lookup {TABLE}; do :; done; \
             while ip $family rule del lookup main suppress_prefixlength 0; do :; done; done"
        );
        // What is not there cannot be deleted, and need not be.
        self.run(Ns::Egress, &["sh", "-c", &script]);
        sysctl(Ns::Egress, &[("net.ipv4.conf.all.src_valid_mark", "0")]);
    }

    /// An endpoint's file as a provider gives it, with more lines for `[Interface]`.
    #[track_caller]
    pub fn provider_file(
        &self,
        endpoint: Endpoint,
        name: &str,
        server: &str,
        more: &str,
    ) -> PathBuf {
        let keys = &self.keys[&endpoint];
        let preshared = preshared_line(keys.preshared.as_deref());
        let text = format!(
            "[Interface]\nPrivateKey = {}\nAddress = {TUNNEL_CLIENT}/32, {TUNNEL_CLIENT_V6}/128\n{more}\n\
             [Peer]\nPublicKey = {}\n{preshared}AllowedIPs = 0.0.0.0/0, ::/0\nEndpoint = {server}\n\
             PersistentKeepalive = 25\n",
            keys.client.private, keys.server.public,
        );
        self.write_file(name, &text, 0o600)
    }

    /// The files of both endpoints, `primary.conf` and `backup.conf`, and what `init` makes of them,
    /// with quick health cycles.
    #[track_caller]
    pub fn init_config(&self, servers: [&str; 2]) -> String {
        let dns = format!("DNS = {TUNNEL_SERVER}\n");
        let primary = self.provider_file(Endpoint::A, "primary.conf", servers[0], &dns);
        let backup = self.provider_file(Endpoint::B, "backup.conf", servers[1], &dns);
        let files = [primary, backup].map(|file| file.display().to_string());
        let said = self.actuator_ok(&["init", "--path", "media", &files[0], &files[1]]);
        self.edit_config(
            "    health:\n",
            "    health:\n      interval: 1s\n      settle: 1s\n      standby_interval: 1s\n",
        );
        self.edit_config(
            &format!("probe: {{target: {TUNNEL_SERVER}}}"),
            &format!("probe: {{target: {TUNNEL_SERVER}, timeout: 500ms}}"),
        );
        said
    }

    /// As with providers that know this host by one key, and whose servers all have one: the two
    /// endpoints differ in their address and in nothing else.
    #[track_caller]
    pub fn share_keys(&mut self) {
        let keys = self.keys[&Endpoint::A].clone();
        self.keys.insert(Endpoint::B, keys);
        self.start_server(Endpoint::B);
    }

    /// A kernel without IPv6, as far as our programs see of it.
    #[track_caller]
    pub fn hide_ipv6(&mut self) {
        let refuse =
            "echo 'RTNETLINK answers: Address family not supported by protocol' >&2; exit 2";
        let ip = format!(
            "#!/bin/sh\ncase \" $* \" in *' -6 '*) {refuse} ;; esac\n\
             PATH=${{PATH#*:}} exec ip \"$@\"\n"
        );
        let file = self.write_file("ip", &ip, 0o755);
        let script = format!(
            "mount -t tmpfs none /proc/sys/net/ipv6 && PATH={}:$PATH exec \"$@\"",
            file.parent().expect("a directory").display()
        );
        self.before_programs = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
    }

    /// Whether the tunnel's device is there.
    pub fn has_tunnel(&self) -> bool {
        self.run(Ns::Egress, &["ip", "link", "show", TUNNEL]).status.success()
    }

    /// Both families' rules, as `ip` shows them.
    #[track_caller]
    pub fn policy_rules(&self) -> String {
        ["-4", "-6"].map(|family| self.exec_ok(Ns::Egress, &["ip", family, "rule"])).concat()
    }

    /// Our programs find these names in `/etc/hosts`.
    #[track_caller]
    pub fn mount_hosts(&mut self, text: &str) {
        let file = self.write_file("hosts", text, 0o644);
        let script = format!("mount --bind {} /etc/hosts && exec \"$@\"", file.display());
        self.before_programs = ["sh", "-c", &script, "sh"].map(str::to_owned).into();
    }
}
