//! Three hosts, each locked by a path of its own with the same names, watched by one Prometheus and
//! two Alertmanagers on the host that is otherwise the one under test. Rules, Prometheus'
//! configuration and Alertmanager's are the project's own; only addresses and files differ.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair as TlsKey, SanType};
use serde_json::Value;

use crate::addresses::{EGRESS, Endpoint, FWMARK, Ns, ROUTER, TABLE, TUNNEL_SERVER, UPLINK};
use crate::keys::KeyPair;
use crate::monitoring::{Alertmanagers, Instances};
use crate::process::Process;
use crate::programs::Said;
use crate::shipped::{adapted, shipped};
use crate::topology::{ip_batch, ip_outside, sysctl};
use crate::wireguard::{Device, MTU};
use crate::world::World;

/// One host of the fleet, with everything that runs on it.
pub struct Gateway {
    ns: Ns,
    number: u8,
    client: KeyPair,
    pub exporter: Process,
    pub actuator: Process,
    _device: Device,
}

/// Three hosts, and what watches them.
pub struct Fleet {
    pub gateways: [Gateway; 3],
    pub alertmanagers: Alertmanagers,
    pub prometheus: Process,
}

/// Each with an interface's name of its own, because all namespaces share `/run/wireguard`.
const HOSTS: [(u8, Ns, &str); 3] =
    [(1, Ns::Gateway1, "wgg1"), (2, Ns::Gateway2, "wgg2"), (3, Ns::Gateway3, "wgg3")];

/// On a network of its own behind the router.
const fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 0, 10 + number, 2)
}

const fn tunnel_address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 64, 0, 10 + number)
}

impl Gateway {
    /// What its alerts call it.
    pub fn name(&self) -> &'static str {
        self.ns.name()
    }
}

impl World {
    /// Builds, locks and watches three hosts. Each has a path `media` to the two endpoints.
    #[track_caller]
    pub fn start_fleet(&self) -> Fleet {
        let authority = Authority::new();
        self.write_file("ca.crt", &authority.certificate, 0o644);
        let gateways = HOSTS.map(|(number, ns, interface)| {
            connect(ns, number);
            self.start_gateway(number, ns, interface, &authority)
        });
        let alertmanagers = self.start_alertmanager(&self.rendered(&gateways), Instances::Two);
        let prometheus = self.start_prometheus(&self.fleets_prometheus(&gateways, &alertmanagers));
        Fleet { gateways, alertmanagers, prometheus }
    }

    /// The endpoint's server forgets the host, as a provider does whose customer has not paid: no
    /// handshake of it is answered any more, and everybody else's is.
    #[track_caller]
    pub fn forget(&self, gateway: &Gateway, endpoint: Endpoint) {
        let peer = ["peer", &gateway.client.public, "remove"];
        let argv = [&["wg", "set", endpoint.device()], &peer[..]].concat();
        self.exec_ok(endpoint.ns(), &argv);
    }

    /// One command of `actuator` on this host.
    #[track_caller]
    pub fn ask(&self, gateway: &Gateway, arguments: &[&str]) -> Said {
        let line = self.gateway_line("actuator", gateway.ns, arguments);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.run(gateway.ns, &line).into()
    }

    fn start_gateway(
        &self,
        number: u8,
        ns: Ns,
        interface: &'static str,
        authority: &Authority,
    ) -> Gateway {
        let client = KeyPair::generate();
        let own = tunnel_address(number);
        for server in Endpoint::ALL {
            let device = server.device();
            let allowed = format!("{own}/32");
            let peer = ["peer", &client.public, "allowed-ips", &allowed];
            self.exec_ok(server.ns(), &[&["wg", "set", device], &peer[..]].concat());
            ip_batch(server.ns(), &format!("route add {own}/32 dev {device}\n"));
        }
        let device = Device::create(self.backend, ns, interface);
        ip_batch(
            ns,
            &format!(
                "addr add {own}/32 dev {interface}\nlink set {interface} mtu {MTU} up\n\
                 route add 0.0.0.0/0 dev {interface} table {TABLE}\n\
                 rule add not fwmark {FWMARK} lookup {TABLE}\n\
                 rule add lookup main suppress_prefixlength 0\n"
            ),
        );
        sysctl(ns, &[("net.ipv4.conf.all.src_valid_mark", "1")]);
        self.write_gateway_files(ns, number, interface, &client, authority);
        let line = self.gateway_line("actuator", ns, &["converge"]);
        let line: Vec<&str> = line.iter().map(String::as_str).collect();
        self.exec_ok(ns, &line);
        let web = format!("--web.config.file={}", self.of(ns, "web.yml").display());
        let token = format!("--web.bearer-token-file={}", self.of(ns, "token").display());
        let listen = |port: u16| format!("--web.listen-address={}:{port}", address(number));
        let start = |program: &str, arguments: &[&str]| {
            let line = self.gateway_line(program, ns, arguments);
            let line: Vec<&str> = line.iter().map(String::as_str).collect();
            self.spawn(ns, &format!("{ns}-{program}"), &line)
        };
        let exporter = start("exporter", &[&listen(9061), &web]);
        let actuator = start("actuator", &["serve", &listen(9062), &web, &token]);
        Gateway { ns, number, client, exporter, actuator, _device: device }
    }

    fn write_gateway_files(
        &self,
        ns: Ns,
        number: u8,
        interface: &str,
        client: &KeyPair,
        authority: &Authority,
    ) {
        let write = |name: &str, text: &str| self.write_file(&format!("{ns}.{name}"), text, 0o600);
        let key = write("key", &client.private);
        write("token", &KeyPair::generate().private);
        let (certificate, private) = authority.issue(IpAddr::V4(address(number)));
        let certificate = write("server.crt", &certificate);
        let private = write("server.key", &private);
        let (certificate, private) = (certificate.display(), private.display());
        let web = format!("tls_server_config: {{cert_file: {certificate}, key_file: {private}}}\n");
        write("web.yml", &web);
        let endpoints: String = Endpoint::ALL
            .map(|endpoint| {
                format!(
                    "      - name: {}\n        address: {}\n        public_key: {}\n        \
                     private_key_file: {}\n        tunnel_addresses: [{}]\n",
                    endpoint.name(),
                    endpoint.socket(),
                    self.server_public_key(endpoint),
                    key.display(),
                    tunnel_address(number)
                )
            })
            .concat();
        let config = format!(
            "host: {ns}\npaths:\n  - name: media\n    interface: {interface}\n    \
             management: [{EGRESS}]\n    health: {{interval: 1s, settle: 1s, standby_interval: 1s, \
             probe: {{target: {TUNNEL_SERVER}, timeout: 500ms}}}}\n    endpoints:\n{endpoints}"
        );
        write("egress.yml", &config);
    }

    /// The flags that keep the host's files apart from those of the others.
    fn gateway_line(&self, program: &str, ns: Ns, more: &[&str]) -> Vec<String> {
        let mut line = vec![Self::program(program).display().to_string()];
        line.push(format!("--config.file={}", self.of(ns, "egress.yml").display()));
        line.push(format!("--state.directory={}", self.of(ns, "state").display()));
        if program == "actuator" {
            line.push(format!("--control.socket={}", self.of(ns, "actuator.sock").display()));
        }
        line.extend(more.iter().map(|&word| word.to_owned()));
        line
    }

    fn of(&self, ns: Ns, name: &str) -> PathBuf {
        self.scratch().join(format!("{ns}.{name}"))
    }

    /// What `actuator render alertmanager` says of these hosts, as it is.
    fn rendered(&self, gateways: &[Gateway]) -> String {
        let actuator = Self::program("actuator").display().to_string();
        let files = self.scratch().display().to_string();
        let mut argv = vec![actuator, "render".into(), "alertmanager".into(), "--files".into()];
        argv.push(files);
        for gateway in gateways {
            let url = format!("https://{}:9062", address(gateway.number));
            argv.extend(["--host".to_owned(), format!("{}={url}", gateway.name())]);
        }
        let argv: Vec<&str> = argv.iter().map(String::as_str).collect();
        self.exec_ok(Ns::Egress, &argv)
    }

    /// The example of the guide, with the addresses and files of this world.
    fn fleets_prometheus(&self, gateways: &[Gateway], alertmanagers: &Alertmanagers) -> String {
        let (_, text) = shipped("../docs/guides/fleet/prometheus.yml");
        let (rules, _) = shipped("vpn-egress.rules.yml");
        let ca = self.scratch().join("ca.crt").display().to_string();
        let text = adapted(&text, "- vpn-egress.rules.yml", &format!("- {}", rules.display()));
        let text = adapted(&text, "/etc/prometheus/vpn-egress/ca.crt", &ca);
        let told = alertmanagers.addresses.iter().enumerate();
        let text = told.fold(text, |text, (index, address)| {
            adapted(&text, &format!("am{}.example:9093", index + 1), address)
        });
        gateways.iter().fold(text, |text, gateway| {
            let name = format!("{}.example", gateway.name());
            adapted(&text, &name, &address(gateway.number).to_string())
        })
    }

    /// The hosts for which an expression has a value now, sorted.
    pub fn hosts(&self, expression: &str) -> Vec<String> {
        let host = |metric: &Value| metric["host"].as_str().unwrap_or("none").to_owned();
        let mut hosts: Vec<_> =
            self.query(expression).iter().map(|(metric, _)| host(metric)).collect();
        hosts.sort();
        hosts.dedup();
        hosts
    }
}

/// The cable to the router, on which the monitoring host's requests come in, and the route by
/// which they are answered: that host is on another network, and all else goes into the tunnel.
fn connect(ns: Ns, number: u8) {
    let port = format!("{ns}-lan");
    let [a, b, c, _] = address(number).octets();
    ip_outside(&format!("netns add {ns}\n"));
    ip_outside(&format!(
        "link add name {UPLINK} netns {ns} type veth peer name {port} netns {}\n",
        Ns::Router
    ));
    let gateway = Ipv4Addr::new(a, b, c, 1);
    ip_batch(Ns::Router, &format!("addr add {gateway}/24 dev {port}\nlink set {port} up\n"));
    ip_batch(
        ns,
        &format!(
            "link set lo up\naddr add {}/24 dev {UPLINK}\nlink set {UPLINK} up\n\
             route add default via {gateway}\n\
             route add {EGRESS} via {gateway}\n",
            address(number)
        ),
    );
    ip_batch(Ns::Egress, &format!("route add {a}.{b}.{c}.0/24 via {ROUTER}\n"));
}

/// Vouches for the hosts' certificates.
struct Authority {
    issuer: Issuer<'static, TlsKey>,
    certificate: String,
}

impl Authority {
    fn new() -> Self {
        let key = TlsKey::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).expect("a certificate").pem();
        Self { issuer: Issuer::new(params, key), certificate }
    }

    /// Certificate and key for an address.
    fn issue(&self, address: IpAddr) -> (String, String) {
        let key = TlsKey::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::IpAddress(address)];
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        (certificate.pem(), key.serialize_pem())
    }
}
