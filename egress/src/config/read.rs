//! From the tree to the configuration, key by key, in the order of the documented file.
//!
//! Must never fall back to a default where something was written that is not understood.

use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::check;
use super::cursor::{Cursor, Fields};
use super::error::{ConfigError, Place, Problem};
use super::server::Server;
use super::shown::Shown;
use super::yaml::{Node, Source};
use super::{
    BringUp, Config, DnsPolicy, Endpoint, Health, Host, Lookup, PathConfig, Uplinks, Workload,
    health, ids, keyfile, on_host, provider, value, watchdog, workload,
};
use crate::key::PublicKey;
use crate::mark::Mark;
use crate::names::PathName;

pub(super) const PATH: &[&str] = &[
    "name",
    "interface",
    "bring_up",
    "mtu",
    "uplinks",
    "fwmark",
    "workload",
    "workload_mark",
    "resolvers",
    "management",
    "allow_interfaces",
    "allow",
    "dns",
    "endpoints",
    "ntp",
    "health",
];
const ENDPOINT: &[&str] = &[
    "name",
    "wg_quick",
    "address",
    "public_key",
    "private_key_file",
    "preshared_key_file",
    "allowed_ips",
    "persistent_keepalive",
    "tunnel_addresses",
    "probe_interval",
];

/// What says how an endpoint is looked at, and not what it is: it may stand beside a provider's file.
const BESIDE_WG_QUICK: [&str; 3] = ["name", "wg_quick", "probe_interval"];

/// What wg-quick uses too.
const DEFAULT_FWMARK: u32 = 0xca6c;

/// Above what wg-quick (0xca6c), Kubernetes (0xc000), Cilium (0x0f00) and Tailscale (0xff0000) use.
const DEFAULT_WORKLOAD_MARK: Mark = Mark::bits(0x0100_0000);

/// Seconds. Short enough for the mappings of ordinary NAT routers, as wg(8) advises.
const DEFAULT_KEEPALIVE: u16 = 25;

/// What is asked of this host beyond the file itself.
#[derive(Clone, Copy)]
pub(super) enum Ask<'a> {
    /// Nothing: a service that is stopped, or a cable that is unplugged, must not make the config of
    /// all paths unreadable.
    Nothing,
    /// That every device is what it is named for.
    Devices(&'a Host<'a>),
    /// The same, and that every cgroup exists.
    DevicesAndCgroups(&'a Host<'a>),
}

pub(super) fn config(
    source: &Source,
    ask: Ask<'_>,
    lookup: &Lookup<'_>,
) -> Result<Config, ConfigError> {
    let tree = source.tree()?;
    if matches!(tree, Node::Null) {
        return Err(Place::file(&source.file).with(Problem::Empty));
    }
    let root = Cursor::root(source, &tree).fields(&["paths", "host", "ids", "watchdog"])?;
    let host = root.read("host", String::new(), |at| at.value(value::host))?;
    let host = if host.is_empty() { system_name() } else { host };
    let cursors = some(&root.need("paths")?, "describe at least one path")?;
    let mut paths = cursors.iter().map(|at| path(at, lookup)).collect::<Result<Vec<_>, _>>()?;
    check::paths(&cursors, &paths)?;
    workload::disjoint(&cursors, &paths)?;
    let tunnels: Vec<String> = paths.iter().map(|path| path.interface.clone()).collect();
    for path in &mut paths {
        path.tunnels.clone_from(&tunnels);
    }
    match ask {
        Ask::Nothing => {}
        Ask::Devices(host) => on_host::check(&cursors, &paths, host)?,
        Ask::DevicesAndCgroups(host) => {
            workload::cgroups_exist(&cursors)?;
            on_host::check(&cursors, &paths, host)?;
        }
    }
    let ids = root.read("ids", ids::Ids::default(), ids::ids)?;
    let watchdog = root.read("watchdog", None, watchdog::watchdog)?;
    let files = std::iter::once(source.file.clone()).chain(source.named.take()).collect();
    Ok(Config { host, paths, ids, watchdog, files })
}

/// As the kernel has it, and so as `uname -n` says it.
fn system_name() -> String {
    nix::sys::utsname::uname()
        .map(|name| name.nodename().to_string_lossy().into_owned())
        .unwrap_or_default()
}

/// The items of a list that must have some.
pub(super) fn some<'a>(
    list: &Cursor<'a>,
    mend: &'static str,
) -> Result<Vec<Cursor<'a>>, ConfigError> {
    let items = list.items()?;
    if items.is_empty() { Err(list.error(Problem::EmptyList(mend))) } else { Ok(items) }
}

fn path(at: &Cursor<'_>, lookup: &Lookup<'_>) -> Result<PathConfig, ConfigError> {
    let fields = at.fields(PATH)?;
    let nets = |key| fields.read(key, Vec::new(), |list| list.values(value::net));
    let name: PathName = fields.need("name")?.value(value::name)?;
    let interface = fields.need("interface")?.value(value::interface)?;
    let listed = fields.need("endpoints")?;
    let listed = some(&listed, "a path needs at least one endpoint")?;
    let found =
        listed.iter().map(|at| endpoint(at, &name, lookup)).collect::<Result<Vec<_>, _>>()?;
    check::endpoints(&found)?;
    let path = PathConfig {
        name,
        tunnels: vec![interface.clone()],
        interface,
        bring_up: fields.read("bring_up", BringUp::Auto, bring_up)?,
        mtu: fields.read("mtu", None, |at| mtu(at).map(Some))?,
        uplinks: fields.read("uplinks", Uplinks::Auto, uplinks)?,
        fwmark: fields.read("fwmark", DEFAULT_FWMARK, fwmark)?,
        workload: fields.read("workload", Workload::Host, workload::workload)?,
        workload_mark: fields.read("workload_mark", DEFAULT_WORKLOAD_MARK, workload_mark)?,
        resolvers: fields.read("resolvers", Vec::new(), |list| list.values(value::ip))?,
        management: nets("management")?,
        allow_interfaces: fields
            .read("allow_interfaces", Vec::new(), |list| list.values(value::interface))?,
        allow: nets("allow")?,
        dns: fields.read("dns", DnsPolicy::Refuse, dns)?,
        ntp: fields.read("ntp", Vec::new(), |list| list.values(value::ip))?,
        endpoints: found.into_iter().map(|found| found.endpoint).collect(),
        health: fields.read("health", Health::default(), health::health)?,
    };
    check::path(&fields, &path)?;
    Ok(path)
}

fn bring_up(at: &Cursor<'_>) -> Result<BringUp, ConfigError> {
    match at.text()? {
        "auto" => Ok(BringUp::Auto),
        "off" => Ok(BringUp::Off),
        other => Err(choice(at, other, "`auto` or `off`")),
    }
}

fn mtu(at: &Cursor<'_>) -> Result<u16, ConfigError> {
    match at.node() {
        Node::Integer(bytes) => value::mtu(*bytes).map_err(|problem| at.error(problem)),
        _ => Err(at.error(Problem::Mtu)),
    }
}

fn uplinks(at: &Cursor<'_>) -> Result<Uplinks, ConfigError> {
    match at.node() {
        Node::Text(text) if text == "auto" => Ok(Uplinks::Auto),
        Node::List(_) => {
            some(at, "write `auto`, or name a device")?;
            at.values(value::interface).map(Uplinks::Named)
        }
        node => Err(at.error(Problem::Type { want: "`auto` or a list", found: node.kind() })),
    }
}

fn fwmark(at: &Cursor<'_>) -> Result<u32, ConfigError> {
    match at.node() {
        Node::Integer(number) => value::fwmark(*number).map_err(|problem| at.error(problem)),
        Node::Text(_) => at.value(value::fwmark_text),
        _ => Err(at.error(Problem::Fwmark)),
    }
}

/// One bit, or a value and its mask, so that it can be set beside what others keep in a mark.
fn workload_mark(at: &Cursor<'_>) -> Result<Mark, ConfigError> {
    match at.node() {
        Node::Text(text) if text.contains('/') => at.value(value::masked),
        _ => {
            let bit = fwmark(at)?;
            if bit.is_power_of_two() {
                Ok(Mark::bits(bit))
            } else {
                Err(at.error(Problem::WorkloadMark))
            }
        }
    }
}

fn dns(at: &Cursor<'_>) -> Result<DnsPolicy, ConfigError> {
    match at.text()? {
        "refuse" => Ok(DnsPolicy::Refuse),
        "allow" => Ok(DnsPolicy::Allow),
        other => Err(choice(at, other, "`refuse` or `allow`")),
    }
}

pub(super) fn choice(at: &Cursor<'_>, got: &str, want: &'static str) -> ConfigError {
    at.error(Problem::Choice { got: Shown::of(got), want })
}

/// An endpoint, and what is needed to say where it came from.
pub(super) struct Found<'a> {
    pub endpoint: Endpoint,
    pub at: Cursor<'a>,
    pub name_at: Cursor<'a>,
    /// The file that its tunnel addresses stand in.
    pub file: PathBuf,
}

fn endpoint<'a>(
    at: &Cursor<'a>,
    path: &PathName,
    lookup: &Lookup<'_>,
) -> Result<Found<'a>, ConfigError> {
    let fields = at.fields(ENDPOINT)?;
    let name_at = fields.need("name")?;
    let name = name_at.value(value::name)?;
    let (mut endpoint, file) = match fields.get("wg_quick") {
        Some(named) => provided(name, &named, &fields, &|server| server.at(path, lookup))?,
        None => (inline(name, &fields, &|server| server.at(path, lookup))?, at.file().to_owned()),
    };
    endpoint.probe_interval =
        fields.read("probe_interval", None, |at| health::every(at).map(Some))?;
    if endpoint.private_key.public() == endpoint.public_key {
        return Err(at.error(Problem::OwnKey));
    }
    Ok(Found { endpoint, at: at.clone(), name_at, file })
}

/// The address of a server, and the hostname that it stands for.
type At<'a> = dyn Fn(Server) -> Result<(SocketAddr, Option<String>), Problem> + 'a;

fn provided(
    name: crate::names::EndpointName,
    named: &Cursor<'_>,
    fields: &Fields<'_>,
    server_at: &At<'_>,
) -> Result<(Endpoint, PathBuf), ConfigError> {
    let beside = ENDPOINT.iter().filter(|key| !BESIDE_WG_QUICK.contains(key));
    for key in beside {
        if let Some(at) = fields.get(key) {
            return Err(at.error(Problem::BesideWgQuick(key)));
        }
    }
    let file = keyfile::resolve(named)?;
    let said = provider::said(&|| named.blame(), &file)?;
    let (address, hostname) =
        server_at(said.endpoint).map_err(|problem| Place::file(&file).with(problem))?;
    let endpoint = Endpoint {
        name,
        address,
        hostname,
        public_key: said.public_key,
        private_key: said.private_key,
        preshared_key: said.preshared_key,
        allowed_ips: said.allowed_ips,
        persistent_keepalive: said.keepalive.unwrap_or(DEFAULT_KEEPALIVE),
        tunnel_addresses: said.addresses,
        mtu: said.mtu,
        probe_interval: None,
    };
    Ok((endpoint, file))
}

fn inline(
    name: crate::names::EndpointName,
    fields: &Fields<'_>,
    server_at: &At<'_>,
) -> Result<Endpoint, ConfigError> {
    let all = vec![IpNet::V4(Ipv4Net::default()), IpNet::V6(Ipv6Net::default())];
    let (address, hostname) =
        fields.need("address")?.value(|text| Server::parse(text).and_then(server_at))?;
    Ok(Endpoint {
        name,
        address,
        hostname,
        public_key: public_key(&fields.need("public_key")?)?,
        private_key: keyfile::key(&fields.need("private_key_file")?)?,
        preshared_key: fields.read("preshared_key_file", None, |at| keyfile::key(at).map(Some))?,
        allowed_ips: fields.read("allowed_ips", all, |list| {
            some(list, "leave `allowed_ips` out for everything")?;
            list.values(value::net)
        })?,
        persistent_keepalive: fields.read("persistent_keepalive", DEFAULT_KEEPALIVE, keepalive)?,
        tunnel_addresses: fields
            .read("tunnel_addresses", Vec::new(), |list| list.values(value::host_net))?,
        mtu: None,
        probe_interval: None,
    })
}

fn public_key(at: &Cursor<'_>) -> Result<PublicKey, ConfigError> {
    at.any_text()?.parse().map_err(|error| at.error(Problem::Key(error)))
}

fn keepalive(at: &Cursor<'_>) -> Result<u16, ConfigError> {
    match at.node() {
        Node::Integer(seconds) => value::keepalive(*seconds).map_err(|problem| at.error(problem)),
        Node::Text(text) if text == "off" => Err(at.error(Problem::KeepaliveOff)),
        _ => Err(at.error(Problem::Keepalive)),
    }
}
