//! `actuator ids`: the exemption of this host from inspection, told, looked for and made.
//!
//! It needs no daemon and no lock, and waits on the network: it must never be done by the engine,
//! which has alerts to act on.

mod render;

use std::net::IpAddr;
use std::path::Path;

use clap::Subcommand;
use egress::config::Config;
use egress::config::ids::{Apply, Direction};
use egress::error::chain;
use egress::pins;
use egress::state::Store;
use ids::{Applied, Exemption, How, Unifi, Unknown, egress_addresses};

use crate::control::{Reply, exit};

pub use render::Engine;

#[derive(Debug, Subcommand)]
pub enum Ids {
    /// Print the exemption for an engine, with its reasons.
    Render {
        /// In whose language.
        #[arg(long = "for", value_name = "ENGINE")]
        engine: Engine,
        /// The address that the inspection sees; several may be given. Without it: the config's,
        /// or the one that the tunnel's packets leave with.
        #[arg(long = "host", value_name = "ADDRESS", value_parser = host)]
        hosts: Vec<IpAddr>,
    },
    /// Ask the controller whether the exemption is there: exit 0 it is, 2 it is not, 3 unknown.
    Check,
    /// Add the exemption to what the controller has, and nothing else.
    Apply,
}

/// An address that packets can come from.
fn host(text: &str) -> Result<IpAddr, String> {
    let wrong = || "want the address of one host, such as 192.168.10.20".to_owned();
    let address = text.parse::<IpAddr>().map_err(|_| wrong())?.to_canonical();
    let broadcast = matches!(address, IpAddr::V4(address) if address.is_broadcast());
    let nobody = address.is_unspecified() || address.is_multicast() || address.is_loopback();
    if broadcast || nobody { Err(wrong()) } else { Ok(address) }
}

pub fn run(command: &Ids, config_file: &Path, store: &Store) -> Reply {
    if let Ids::Render { engine, hosts } = command
        && !hosts.is_empty()
    {
        // Needs no config: a person may ask on another machine.
        let text = render::render(*engine, hosts, Direction::Source, &How::Given.to_string());
        return Reply::done(vec![text.trim_end().to_owned()]);
    }
    let config = match pins::config(config_file, store) {
        Ok(config) => config,
        Err(error) => return Reply::config(chain(error)),
    };
    match command {
        Ids::Render { engine, .. } => match egress_addresses(&config) {
            Ok(found) => {
                let direction = config.ids.unifi.as_ref().map(|unifi| unifi.direction);
                let direction = direction.unwrap_or(Direction::Source);
                let how = found.how.to_string();
                let text = render::render(*engine, &found.addresses, direction, &how);
                Reply::done(vec![text.trim_end().to_owned()])
            }
            Err(error) => unknown(error),
        },
        Ids::Check => check(&config),
        Ids::Apply => apply(&config),
    }
}

/// What `converge` does about it, after the lock is in place and said.
pub fn converge(mut reply: Reply, check_only: bool, config_file: &Path, store: &Store) -> Reply {
    let wanted = |config: &Config| {
        config.ids.unifi.as_ref().is_some_and(|unifi| unifi.apply == Apply::Converge)
    };
    let carried_out = [exit::DONE, exit::WOULD_CHANGE].contains(&reply.exit);
    let Some(config) =
        pins::config(config_file, store).ok().filter(|config| carried_out && wanted(config))
    else {
        return reply;
    };
    let own = if check_only { check(&config) } else { apply(&config) };
    // The lock is in place whatever the controller says: its own lines are above.
    reply.lines.extend(own.lines.into_iter().map(|line| format!("ids: {line}")));
    reply.exit = reply.exit.max(own.exit);
    reply.changed |= own.changed;
    reply
}

fn check(config: &Config) -> Reply {
    let unifi = match Unifi::of(config) {
        Ok(unifi) => unifi,
        Err(error) => return unknown(error),
    };
    let wanted = described(unifi.exemption());
    match unifi.check() {
        Ok((true, setting)) => {
            Reply::done(vec![format!("present: {wanted} (IPS mode {})", setting.mode())])
        }
        Ok((false, setting)) => Reply::would_change(vec![format!(
            "absent: {wanted} (IPS mode {}); add it: actuator ids apply",
            setting.mode()
        )]),
        Err(error) => unknown(error),
    }
}

fn apply(config: &Config) -> Reply {
    let unifi = match Unifi::of(config) {
        Ok(unifi) => unifi,
        Err(error) => return unknown(error),
    };
    let wanted = described(unifi.exemption());
    match unifi.apply() {
        Ok(Applied::Present) => Reply::done(vec![format!("nothing to change: {wanted} is there")]),
        Ok(Applied::Added { window, differences }) => {
            let mut lines = vec![format!(
                "added: {wanted}; read again and found. Between reading and writing were {} ms: \
                 what others saved in them is overwritten",
                window.as_millis()
            )];
            if differences.is_empty() {
                lines.push("nothing else has changed".to_owned());
                return Reply { changed: true, ..Reply::done(lines) };
            }
            lines.push(
                "more has changed meanwhile, by somebody else or by the controller; look at it:"
                    .to_owned(),
            );
            lines.extend(differences.into_iter().map(|line| format!("  {line}")));
            Reply { changed: true, ..Reply::refused(lines) }
        }
        Err(error) => unknown(error),
    }
}

fn unknown(error: Unknown) -> Reply {
    Reply::refused(vec![format!("unknown: {}", chain(error))])
}

fn described(exemption: &Exemption) -> String {
    let Exemption { address, direction } = exemption;
    format!("{address}, direction {}", direction.word())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_of_a_host_is_taken() {
        for good in ["192.168.10.20", "2001:db8::1", "::ffff:10.0.0.2"] {
            assert!(host(good).is_ok(), "{good}");
        }
        assert_eq!(host("::ffff:10.0.0.2").map(|host| host.to_string()), Ok("10.0.0.2".to_owned()));
        for bad in [
            "",
            "nas.lan",
            "10.0.0.0/8",
            "0.0.0.0",
            "::",
            "127.0.0.1",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
            "10.0.0.2 any -> any any (sid:1;)",
            "10.0.0.2\npass",
            "!10.0.0.2",
            "[10.0.0.2]",
            "fe80::1%eth0",
        ] {
            assert!(host(bad).is_err(), "{bad}");
        }
    }
}
