//! What on this host, other than rules of a firewall, changes what the lock or the routing needs: said by
//! `validate` as advice, which changes no exit code. Read only.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

use egress::config::{BringUp, PathConfig, Workload};
use egress::probe::{policy, uplink};

const DEVICES: &str = "/sys/class/net";
const BRIDGE_SYSCTLS: &str = "/proc/sys/net/bridge";
/// There while systemd-networkd runs, or ran.
const NETWORKD: &str = "/run/systemd/netif/state";
/// In the order in which systemd reads them; a file of the same name in an earlier one hides a later one.
const NETWORKD_CONFIGS: [&str; 4] =
    ["/etc/systemd", "/run/systemd", "/usr/local/lib/systemd", "/usr/lib/systemd"];

/// Addresses of documentation: routed as the internet is (RFC 5737, RFC 3849).
const INTERNET: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];

pub fn of(path: &PathConfig) -> Vec<String> {
    let mut advice: Vec<String> = into_the_tunnel(path).into_iter().collect();
    advice.extend(past_the_tunnel(path));
    advice.extend(bridged(path, Path::new(BRIDGE_SYSCTLS), Path::new(DEVICES)));
    if path.bring_up == BringUp::Auto && Path::new(NETWORKD).exists() {
        advice.extend(removed_rules(&NETWORKD_CONFIGS.map(PathBuf::from)));
    }
    advice
}

/// The rule that sends the tunnel's own packets into the tunnel.
fn into_the_tunnel(path: &PathConfig) -> Option<String> {
    let looped = path.endpoints.iter().map(|endpoint| endpoint.address).find(|to| {
        let device = uplink::leaves_by(*to, path.fwmark).ok().flatten();
        device.is_some_and(|device| path.tunnels.contains(&device))
    })?;
    let rule = policy::deciding(looped, path.fwmark).ok()??;
    Some(format!(
        "routing: {rule} sends the tunnel's own packets to {} into the tunnel: delete it",
        looped.ip()
    ))
}

/// The rules by which the host's packets leave by another device than the tunnel, in the families that
/// the tunnel has.
fn past_the_tunnel(path: &PathConfig) -> Vec<String> {
    // Where there is no tunnel, the verdict says so.
    if path.workload != Workload::Host || uplink::device(&path.interface).is_none() {
        return Vec::new();
    }
    let has = |to: &IpAddr| {
        let mut own = path.endpoints.iter().flat_map(|endpoint| &endpoint.tunnel_addresses);
        own.any(|net| net.addr().is_ipv4() == to.is_ipv4())
    };
    let past = |to: IpAddr| {
        let to = SocketAddr::new(to, 443);
        let device = uplink::leaves_by(to, 0).ok()??;
        if device == path.interface {
            return None;
        }
        let rule = policy::deciding(to, 0).ok()??;
        Some(format!(
            "routing: {rule} sends what this host sends to the internet by {device}, not by {}: the \
             lock stops it. See `ip rule` and `ip route get {}`",
            path.interface,
            to.ip()
        ))
    };
    INTERNET.into_iter().filter(has).filter_map(past).collect()
}

/// Bridges whose machines this host filters, because `br_netfilter` is loaded and on.
fn bridged(path: &PathConfig, sysctls: &Path, devices: &Path) -> Option<String> {
    let read = |file: PathBuf| fs::read_to_string(file).unwrap_or_default().trim().to_owned();
    let calls = ["bridge-nf-call-iptables", "bridge-nf-call-ip6tables"];
    let on: Vec<&str> = calls.into_iter().filter(|name| read(sysctls.join(name)) == "1").collect();
    if on.is_empty() {
        return None;
    }
    let is_own = |name: &String| {
        path.allow_interfaces.contains(name) || path.workload.interfaces().contains(name)
    };
    // One port alone is passed to no other.
    let passes_on = |name: &String| {
        fs::read_dir(devices.join(name).join("brif")).is_ok_and(|ports| ports.count() > 1)
    };
    let mut bridges: Vec<String> = fs::read_dir(devices)
        .into_iter()
        .flatten()
        .filter_map(|device| device.ok()?.file_name().into_string().ok())
        .filter(|name| !is_own(name) && passes_on(name))
        .collect();
    bridges.sort();
    let names = |all: &[&str]| -> String {
        all.iter().map(|name| format!("net.bridge.{name}=0")).collect::<Vec<_>>().join(" ")
    };
    (!bridges.is_empty()).then(|| {
        format!(
            "bridges: br_netfilter makes this host's firewalls filter what {} only passes on between \
             other machines. The lock lets it pass, other rules may not. Unless something needs that: \
             sysctl -w {}",
            bridges.join(", "),
            names(&on)
        )
    })
}

/// systemd-networkd removes rules that are not its own, unless it is told not to.
fn removed_rules(directories: &[PathBuf]) -> Option<String> {
    let written = setting(directories, "ManageForeignRoutingPolicyRules");
    let removes = written.is_none_or(|value| ["yes", "true", "1", "on"].contains(&value.as_str()));
    removes.then(|| {
        "routing: systemd-networkd removes the tunnel's routing rules whenever it starts or is \
         reconfigured; the daemon puts them back. To keep them, write [Network] and \
         ManageForeignRoutingPolicyRules=no into /etc/systemd/networkd.conf.d/vpn-egress.conf"
            .to_owned()
    })
}

/// The value that counts: the last one of the drop-ins, which are read by name, or of the main file.
fn setting(directories: &[PathBuf], key: &str) -> Option<String> {
    let main = directories.iter().map(|directory| directory.join("networkd.conf"));
    let mut files: Vec<PathBuf> = main.into_iter().find(|file| file.exists()).into_iter().collect();
    let mut drop_ins = std::collections::BTreeMap::new();
    for directory in directories.iter().rev() {
        let entries = fs::read_dir(directory.join("networkd.conf.d")).into_iter().flatten();
        for entry in
            entries.flatten().filter(|entry| entry.path().extension() == Some("conf".as_ref()))
        {
            drop_ins.insert(entry.file_name(), entry.path());
        }
    }
    files.extend(drop_ins.into_values());
    let value = |line: &str| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == key).then(|| value.trim().to_ascii_lowercase())
    };
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    texts.flat_map(|text| text.lines().filter_map(value).collect::<Vec<_>>()).last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networkd_is_named_until_it_is_told_to_leave_rules_alone() {
        let root = tempfile::tempdir().expect("a directory");
        let [etc, lib] = ["etc", "lib"].map(|name| root.path().join(name));
        let directories = [etc.clone(), lib.clone()];
        let write = |file: PathBuf, text: &str| {
            fs::create_dir_all(file.parent().expect("a directory")).expect("made");
            fs::write(file, text).expect("written");
        };
        assert!(removed_rules(&directories).is_some(), "its default");
        write(lib.join("networkd.conf"), "[Network]\n#ManageForeignRoutingPolicyRules=no\n");
        assert!(removed_rules(&directories).is_some(), "a comment");
        write(
            lib.join("networkd.conf.d/10-a.conf"),
            "[Network]\nManageForeignRoutingPolicyRules = no\n",
        );
        assert!(removed_rules(&directories).is_none());
        write(
            etc.join("networkd.conf.d/20-b.conf"),
            "[Network]\nManageForeignRoutingPolicyRules=yes\n",
        );
        assert!(removed_rules(&directories).is_some(), "a later name");
        write(etc.join("networkd.conf.d/20-b.conf"), "");
        assert!(removed_rules(&directories).is_none());
    }
}
