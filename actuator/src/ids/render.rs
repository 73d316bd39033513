//! The exemption of the egress host as a source, in the words of whatever inspects it.
//!
//! Must never be built from anything but parsed addresses: what is printed is loaded as rules.

use std::fmt::Write as _;
use std::net::IpAddr;

use clap::ValueEnum;
use egress::config::ids::Direction;
use ids::Exemption;

/// What inspects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    Suricata,
    Opnsense,
    Pfsense,
    Unifi,
    Opentofu,
}

/// Local rules have 1000000 to 1999999 for themselves; the last digits are WireGuard's port.
const FIRST_SID: usize = 1_051_820;

const SURICATA: &str = "\
# A file of rules of your own, such as /etc/suricata/rules/vpn-egress.rules; name it under
# `rule-files:` in suricata.yaml, then: suricata -T && suricatasc -c reload-rules
#
# `pass` is asked before `drop` (Suricata's usual action-order): what it meets is not inspected
# further. It is two-way (`<>`), because a match in the answers is dropped as well: one direction is
# enough only once this host has spoken first in a flow that Suricata still remembers.
#
# `suppress` in threshold.config is no replacement: it hides the alert, and the drop is still done.
# Where you do use it, suricata_ips_blocked_packets_total and suricata_detect_alerts_suppressed_total
# rising together are such hidden drops.
#
# Not by `not host` in a capture filter: inline, what the filter leaves out is not forwarded.
";

const OPNSENSE: &str = "\
# OPNsense: user-defined rules with the action Pass. Each makes a rule in one direction only, so
# there are two for each address.
#
# By hand: Services > Intrusion Detection > Administration > User defined > +, then Apply.
#
# Or by the API; the file holds one line, machine FIREWALL login KEY password SECRET, mode 0600:
";

const PFSENSE: &str = "\
# pfSense: a Pass List, by hand. Not tried by this project; check by the effect.
#
# 1. Firewall > Aliases > IP > Add. Name: vpn_egress. Type: Host(s). Addresses:
";
const PFSENSE_REST: &str = "\
# 2. Services > Suricata > Pass Lists > Add. Keep what is ticked. Assigned Aliases: vpn_egress.
# 3. Services > Suricata > Interfaces > (the interface) > Pass List: choose it, save, and restart
#    Suricata on the interface.
#
# Legacy mode blocks by the table snort2c, and looks into the Pass List first: the alert still comes,
# the block does not. Take out what is blocked already: Services > Suricata > Blocks.
# Inline mode makes `pass` rules of the Pass List. Should yours not do so, put the rules of
# `actuator ids render --for suricata` into Interfaces > (the interface) > Rules > custom.rules.
";

const UNIFI: &str = "\
# UniFi, by hand. No UniFi hardware was used by this project: check by the effect.
#
# Settings > CyberSecure (in older releases: Security) > Intrusion Prevention > the list of what is
# not inspected (Detection Exclusions; in older releases: Suppression, Allow List) > add:
";
const UNIFI_REST: &str = "\
# In the API it is an entry of `suppression.whitelist` of the setting `ips`. The words for the
# direction are `src`, `dest` and `both`; there is no `dst`. Never write a list with this entry alone:
# what is there is replaced. `actuator ids apply` adds it to what is there.
#
# Where the VPN server's port is not 51820, rules for incoming packets may match its answers, and in
# those the server is the source: consider `both`.
#
# It stays until the controller is rebuilt: `actuator ids check`, or the exporter's metric
# vpn_egress_ids_exemption_present, tells when it is gone.
";

const OPENTOFU: &str = "\
# OpenTofu or Terraform, provider ubiquiti-community/unifi. 0.42.0 is the first with the list of
# exemptions, 0.52.0 the first with suppression_alerts, which you need for the reason below.
#
# DANGER: a block `ips` writes more than it says. The four booleans are sent as false where they are
# left out, alerts that were suppressed in the console are lost where they are not repeated here, and
# an empty list of exemptions is never sent, so that removing the last entry here removes nothing.
# So look up what you have, and write it all down, before the first apply:
#   curl -sS -K FILE https://CONTROLLER/proxy/network/api/s/default/get/setting/ips
# (FILE, mode 0600: header = \"X-API-KEY: ...\")
#
# `tofu plan -detailed-exitcode` exits 2 where the controller has drifted.
#
# Provider filipowm/unifi 1.1.0 has unifi_setting_ips with suppression.whitelist. Its `src` works;
# its `dst` and the controller's `dest` are not the same, so entries by destination do not.
terraform {
  required_providers {
    unifi = {
      source  = \"ubiquiti-community/unifi\"
      version = \">= 0.52.0\"
    }
  }
}

# What your controller has NOW: these have no default on purpose, so that none is flipped unseen.
variable \"honeypot_enabled\" { type = bool }
variable \"memory_optimized\" { type = bool }
variable \"restrict_torrents\" { type = bool }
variable \"content_filtering_blocking_page_enabled\" { type = bool }
# As in `suppression.alerts` of the answer; [] where there is none.
variable \"suppression_alerts\" { type = any }
# The exemptions that are there already, in the same words as below; [] where there is none.
variable \"other_exemptions\" {
  type = list(object({ direction = string, mode = string, value = string }))
}

resource \"unifi_setting\" \"ips\" {
  site = \"default\"
  ips = {
    honeypot_enabled                        = var.honeypot_enabled
    memory_optimized                        = var.memory_optimized
    restrict_torrents                       = var.restrict_torrents
    content_filtering_blocking_page_enabled = var.content_filtering_blocking_page_enabled
    suppression_alerts                      = var.suppression_alerts
    suppression_whitelist = concat(var.other_exemptions, [
";

/// What to load or to do, with its reasons as comments. `how`: where the addresses are from.
pub fn render(engine: Engine, hosts: &[IpAddr], direction: Direction, how: &str) -> String {
    let list: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut text = format!(
        "# vpn-egress: exempt this host as a source from inspection. What it sends is encrypted: a\n\
         # match in it is chance. Host: {} ({how}).\n#\n",
        list.join(", ")
    );
    text += match engine {
        Engine::Suricata => SURICATA,
        Engine::Opnsense => OPNSENSE,
        Engine::Pfsense => PFSENSE,
        Engine::Unifi => UNIFI,
        Engine::Opentofu => OPENTOFU,
    };
    for (nth, host) in hosts.iter().enumerate() {
        text += &one(engine, nth, *host, direction);
    }
    text += match engine {
        Engine::Suricata => "",
        Engine::Opnsense => {
            "curl --netrc-file FILE -X POST https://FIREWALL/api/ids/service/reloadRules\n"
        }
        Engine::Pfsense => PFSENSE_REST,
        Engine::Unifi => UNIFI_REST,
        Engine::Opentofu => "    ])\n  }\n}\n",
    };
    text
}

fn one(engine: Engine, nth: usize, host: IpAddr, direction: Direction) -> String {
    let word = direction.word();
    match engine {
        Engine::Suricata => format!(
            "pass ip {host} any <> any any (msg:\"vpn-egress: tunnel of this host, not inspected\"; \
             sid:{}; rev:1;)\n",
            FIRST_SID + nth
        ),
        Engine::Opnsense => {
            let rule = |source: &str, destination: &str, what: &str| {
                format!(
                    "#   Source IP: {}; Destination: {}; Action: Pass; Description: vpn-egress {what}\n\
                     curl --netrc-file FILE -H 'Content-Type: application/json' \\\n  \
                     https://FIREWALL/api/ids/settings/addUserRule \\\n  \
                     -d '{{\"rule\":{{\"enabled\":\"1\",\"source\":\"{source}\",\
                     \"destination\":\"{destination}\",\"action\":\"pass\",\"bypass\":\"0\",\
                     \"description\":\"vpn-egress {what}\"}}}}'\n",
                    or_any(source),
                    or_any(destination),
                )
            };
            let host = host.to_string();
            rule(&host, "", "out") + &rule("", &host, "in")
        }
        Engine::Pfsense => format!("#      {host}\n"),
        Engine::Unifi => {
            let mut text = String::new();
            let seen = match direction {
                Direction::Source => "source",
                Direction::Both => "both directions",
            };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "#   IP address {host}, {seen}");
            let _ = writeln!(text, "{}", entry(host, direction));
            text
        }
        Engine::Opentofu => {
            format!("      {{ direction = \"{word}\", mode = \"ip\", value = \"{host}\" }},\n")
        }
    }
}

fn or_any(address: &str) -> &str {
    if address.is_empty() { "any (leave it empty)" } else { address }
}

fn entry(host: IpAddr, direction: Direction) -> String {
    let exemption = Exemption { address: host, direction };
    exemption.entry().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each engine's text as it was last read by a person. `SNAPSHOTS=write` writes them anew.
    #[test]
    fn each_text_is_as_it_was_read() {
        let hosts: [IpAddr; 2] =
            ["192.168.10.20", "2001:db8::20"].map(|host| host.parse().expect("an address"));
        for engine in Engine::value_variants() {
            let text = render(*engine, &hosts, Direction::Source, "given by --host");
            let name = format!("{engine:?}").to_lowercase();
            let file = format!("{}/src/ids/snapshots/{name}.txt", env!("CARGO_MANIFEST_DIR"));
            if std::env::var("SNAPSHOTS").is_ok_and(|value| value == "write") {
                std::fs::write(&file, &text).expect("written");
            }
            let read = std::fs::read_to_string(&file).expect("a snapshot");
            assert_eq!(text, read, "{file}");
        }
    }

    #[test]
    fn what_is_loaded_as_a_rule_is_one_line_of_its_own() {
        let host = ["10.0.0.2".parse().expect("an address")];
        let text = render(Engine::Suricata, &host, Direction::Source, "given by --host");
        let rules: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(rules.len(), 1, "{rules:?}");
        assert!(rules[0].starts_with("pass ip 10.0.0.2 any <> any any ("), "{rules:?}");
        let json = render(Engine::Unifi, &host, Direction::Both, "given by --host");
        let json: Vec<&str> = json.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(json, [r#"{"direction":"both","mode":"ip","value":"10.0.0.2"}"#]);
    }
}
