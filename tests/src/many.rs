//! Many paths, or many endpoints on one: what a scrape of them costs. Nobody answers at them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::addresses::{FWMARK, Ns, TUNNEL};
use crate::keys::KeyPair;
use crate::topology::ip_batch;
use crate::wireguard::Device;
use crate::world::World;

/// How many of what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Many {
    /// At most 255: each has a value of eight bits of the mark.
    pub paths: u32,
    /// Of each path.
    pub endpoints: u32,
}

/// The tunnels that were made for it; gone when dropped.
pub struct Tunnels(#[allow(dead_code)] Vec<Device>);

impl World {
    /// Writes `egress.yml` for so many, the first path by the world's own tunnel, and makes a tunnel
    /// for each other one.
    #[track_caller]
    pub fn write_many(&self, many: Many) -> Tunnels {
        let keys = KeyPair::generate();
        let private = self.write_file("many.key", &keys.private, 0o600).display().to_string();
        let mut yaml = String::from("paths:\n");
        let mut devices = Vec::new();
        for path in 0..many.paths {
            let (interface, fwmark, rest) = if path == 0 {
                (TUNNEL.to_owned(), FWMARK.to_owned(), String::new())
            } else {
                let workload = format!(
                    "    workload: {{interfaces: [in{path}]}}\n    workload_mark: {:#x}/0xff000000\n",
                    path << 24
                );
                (format!("wgm{path}"), path.to_string(), workload)
            };
            // The first one's own mark has none of those bits, and is no other's.
            let _ = write!(
                yaml,
                "  - name: path{path}\n    interface: {interface}\n    fwmark: {fwmark}\n    bring_up: off\n{rest}    endpoints:\n"
            );
            let mut first = String::new();
            for endpoint in 0..many.endpoints {
                let public = random_key();
                let address = format!("198.18.{}.{}:51820", endpoint / 250, 1 + endpoint % 250);
                let _ = writeln!(
                    yaml,
                    "      - {{name: e{endpoint}, address: \"{address}\", public_key: {public}, private_key_file: {private}}}"
                );
                if endpoint == 0 {
                    first = format!(
                        "[Interface]\nPrivateKey = {}\nFwMark = {fwmark}\n[Peer]\nPublicKey = {public}\n\
                         Endpoint = {address}\nAllowedIPs = 0.0.0.0/0, ::/0\n",
                        keys.private
                    );
                }
            }
            if path > 0 {
                // Few enough for the rest of the process.
                let name: &'static str = interface.clone().leak();
                devices.push(Device::create(self.backend(), Ns::Egress, name));
                ip_batch(Ns::Egress, &format!("link set {interface} up\n"));
            }
            self.set_device_config(Ns::Egress, &interface, &first);
        }
        self.write_file("egress.yml", &yaml, 0o644);
        Tunnels(devices)
    }
}

/// Of nobody.
fn random_key() -> String {
    let mut key = [0; 32];
    let random = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut key));
    random.unwrap_or_else(|error| panic!("/dev/urandom: {error}"));
    STANDARD.encode(key)
}
