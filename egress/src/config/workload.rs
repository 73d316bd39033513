//! What a path locks in: read, and checked against the other paths.
//!
//! Must never let two paths claim the same traffic: which of them ruled it would be chance.

use std::path::Path;

use nix::unistd::User;

use super::check::LOOPBACK;
use super::cursor::Cursor;
use super::error::{ConfigError, Problem};
use super::read::{PATH, choice, some};
use super::shown::Shown;
use super::yaml::Node;
use super::{BringUp, PathConfig, Uplinks, Workload, value};
use crate::netns::Netns;
use crate::users::{self, SUBORDINATE, UserRange};

pub(super) const SCOPED: &[&str] = &["interfaces", "cgroups", "users", "netns"];

/// Where the unified hierarchy is, by convention and for nft, which looks nowhere else.
const CGROUPS: &str = "/sys/fs/cgroup";

pub(super) fn workload(at: &Cursor<'_>) -> Result<Workload, ConfigError> {
    if !matches!(at.node(), Node::Map(_)) {
        return match at.text()? {
            "host" => Ok(Workload::Host),
            other => Err(choice(at, other, WANTED)),
        };
    }
    let fields = at.fields(SCOPED)?;
    let mut scopes = SCOPED.iter().filter_map(|scope| Some((*scope, fields.get(scope)?)));
    let (Some((scope, list)), None) = (scopes.next(), scopes.next()) else {
        return Err(choice(at, "{}", WANTED));
    };
    if scope == "netns" {
        let netns = |text: &str| Netns::parse(text).ok_or(Problem::Netns(Shown::of(text)));
        return list.value(netns).map(Workload::Netns);
    }
    let items = some(&list, "name what is locked in")?;
    Ok(match scope {
        "interfaces" => Workload::Interfaces(list.values(entrance)?),
        "cgroups" => Workload::Cgroups(list.values(cgroup)?),
        _ => Workload::Users(users(&items)?),
    })
}

const WANTED: &str =
    "`host`, or one of {interfaces: [..]}, {cgroups: [..]}, {users: [..]}, {netns: NAME}";

/// A device by which a workload may enter.
fn entrance(text: &str) -> Result<String, Problem> {
    match value::interface(text)?.as_str() {
        LOOPBACK => Err(Problem::Loopback(
            "name the device by which the workload enters, such as its bridge",
        )),
        name => Ok(name.to_owned()),
    }
}

/// A path below the mount point, without a slash at either end.
fn cgroup(text: &str) -> Result<String, Problem> {
    let path = text.trim_matches('/');
    let odd = |c: char| !c.is_ascii_graphic() || c == '"';
    let wrong = path.chars().any(odd)
        || path.split('/').any(|part| part.is_empty() || part == "." || part == "..");
    if wrong { Err(Problem::Cgroup(Shown::of(text))) } else { Ok(path.to_owned()) }
}

/// The users in the order written, then the subordinate ids of those that are named. No id is held
/// twice, for nft takes no ranges that overlap.
fn users(items: &[Cursor<'_>]) -> Result<Vec<UserRange>, ConfigError> {
    let (mut all, mut subordinate) = (Vec::new(), Vec::new());
    for at in items {
        let (own, others) = user(at)?;
        if all.iter().any(|earlier| own.overlaps(*earlier)) {
            return Err(at.error(Problem::ListedTwice(own.to_string())));
        }
        all.push(own);
        subordinate.extend(others);
    }
    for range in subordinate {
        all.extend(range.without(&all));
    }
    Ok(all)
}

/// A user's own id, or a range as written; and the ids that a user who is named may take on.
fn user(at: &Cursor<'_>) -> Result<(UserRange, Vec<UserRange>), ConfigError> {
    let (own, others) = if let Node::Integer(uid) = at.node() {
        let uid = u32::try_from(*uid).map_err(|_| at.error(Problem::Uid))?;
        (UserRange::from(uid), Vec::new())
    } else {
        let text = at.text()?;
        if text.starts_with(|c: char| c.is_ascii_digit()) {
            let range = text.parse().or_else(|_| text.parse().map(|uid: u32| uid.into()));
            (range.map_err(|_| at.error(Problem::Uid))?, Vec::new())
        } else {
            let unknown = || at.error(Problem::UnknownUser(Shown::of(text)));
            let uid = User::from_name(text).ok().flatten().ok_or_else(unknown)?.uid.as_raw();
            let file = Path::new(SUBORDINATE);
            if file.exists() {
                at.note(file);
            }
            let others = users::subordinate(text, uid)
                .map_err(|error| at.error(Problem::Subordinate(error.to_string())))?;
            (uid.into(), others)
        }
    };
    for range in std::iter::once(&own).chain(&others) {
        if range.contains(0) {
            return Err(at.error(Problem::RootLocked));
        }
        // All ones is how the kernel writes that there is no user.
        if range.contains(u32::MAX) {
            return Err(at.error(Problem::Uid));
        }
    }
    Ok((own, others))
}

/// Every cgroup that is named is there: only a rule on one that exists can be loaded.
pub(super) fn cgroups_exist(paths: &[Cursor<'_>]) -> Result<(), ConfigError> {
    for path in paths {
        let Some(workload) = path.fields(PATH)?.get("workload") else { continue };
        if !matches!(workload.node(), Node::Map(_)) {
            continue;
        }
        let Some(list) = workload.fields(SCOPED)?.get("cgroups") else { continue };
        for item in list.items()? {
            let name = item.value(cgroup)?;
            if !Path::new(CGROUPS).join(&name).join("cgroup.procs").is_file() {
                return Err(item.error(Problem::NoCgroup(name)));
            }
        }
    }
    Ok(())
}

/// What every path claims for itself is claimed by no other.
pub(super) fn disjoint(at: &[Cursor<'_>], paths: &[PathConfig]) -> Result<(), ConfigError> {
    for (nth, path) in paths.iter().enumerate() {
        let wrong = |key: &'static str, problem: Problem| -> Result<(), ConfigError> {
            let written = at[nth].fields(PATH)?.get(key);
            Err(written.as_ref().unwrap_or(&at[nth]).error(problem))
        };
        if let Some(twice) = claimed_again(&path.workload) {
            return wrong("workload", Problem::ListedTwice(twice));
        }
        if path.workload == Workload::Host {
            for key in ["workload_mark", "resolvers"] {
                if at[nth].fields(PATH)?.get(key).is_some() {
                    return wrong(key, Problem::NotForHost(key));
                }
            }
        }
        if path.workload.netns().is_some() {
            for key in NOT_FOR_NETNS {
                if at[nth].fields(PATH)?.get(key).is_some() {
                    return wrong(key, Problem::NotForNetns);
                }
            }
            if path.bring_up == BringUp::Off {
                return wrong("bring_up", Problem::NotForNetns);
            }
        }
        for (other_nth, other) in paths.iter().enumerate() {
            let name = other.name.to_string();
            if other_nth < nth {
                if other.interface == path.interface {
                    return wrong("interface", Problem::TunnelTwice(name));
                }
                if other.fwmark == path.fwmark {
                    return wrong("fwmark", Problem::FwmarkTwice(path.fwmark, name));
                }
                let both_marked = is_marked(&other.workload) && is_marked(&path.workload);
                if both_marked && !other.workload_mark.is_told_from(path.workload_mark) {
                    return wrong("workload_mark", Problem::WorkloadMarkTwice(name));
                }
                if let Some(claimed) = overlap(&path.workload, &other.workload) {
                    return wrong("workload", Problem::ClaimedTwice(claimed, name));
                }
            }
            if is_marked(&path.workload) && path.workload_mark.mask() & other.fwmark != 0 {
                return wrong("workload_mark", Problem::MarksShareBits(other.fwmark));
            }
            if let Some(problem) = strays(path, other) {
                let (key, problem) = problem;
                return wrong(key, problem);
            }
        }
    }
    Ok(())
}

/// What of a path would open another way out of a namespace, or means nothing there.
const NOT_FOR_NETNS: [&str; 7] =
    ["workload_mark", "resolvers", "management", "allow_interfaces", "allow", "dns", "ntp"];

/// Whether the workload's packets carry a mark on this host.
fn is_marked(workload: &Workload) -> bool {
    !matches!(workload, Workload::Host | Workload::Netns(_))
}

/// What one workload names twice, or once more inside itself.
fn claimed_again(workload: &Workload) -> Option<String> {
    let again = |nth: usize| match workload {
        Workload::Interfaces(names) => names[..nth].contains(&names[nth]),
        Workload::Cgroups(names) => names[..nth].iter().any(|name| nested(name, &names[nth])),
        // Users are compared where they are read.
        Workload::Host | Workload::Users(_) | Workload::Netns(_) => false,
    };
    let items: Vec<String> = match workload {
        Workload::Interfaces(names) | Workload::Cgroups(names) => names.clone(),
        Workload::Host | Workload::Users(_) | Workload::Netns(_) => Vec::new(),
    };
    (0..items.len()).find(|nth| again(*nth)).map(|nth| items[nth].clone())
}

/// What both lock in, if anything.
fn overlap(one: &Workload, other: &Workload) -> Option<String> {
    match (one, other) {
        (Workload::Interfaces(one), Workload::Interfaces(other)) => {
            one.iter().find(|name| other.contains(name)).cloned()
        }
        (Workload::Users(one), Workload::Users(other)) => {
            let is_held = |uids: &&UserRange| other.iter().any(|other| uids.overlaps(*other));
            one.iter().find(is_held).map(ToString::to_string)
        }
        (Workload::Cgroups(one), Workload::Cgroups(other)) => {
            one.iter().find(|name| other.iter().any(|other| nested(name, other))).cloned()
        }
        (Workload::Netns(one), Workload::Netns(other)) => {
            one.is_same(other).then(|| one.to_string())
        }
        _ => None,
    }
}

/// Whether one is the other, or inside it.
fn nested(one: &str, other: &str) -> bool {
    inside(one, other) || inside(other, one)
}

fn inside(inner: &str, outer: &str) -> bool {
    inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

impl Workload {
    /// What of it `other` does not hold; `None` where that is nothing.
    #[must_use]
    pub fn without(&self, other: &Self) -> Option<Self> {
        match (self, other) {
            (_, Self::Host) => None,
            (Self::Interfaces(own), Self::Interfaces(other)) => {
                rest(own, |name| other.contains(name)).map(Self::Interfaces)
            }
            (Self::Users(own), Self::Users(other)) => {
                let rest: Vec<_> = own.iter().flat_map(|uids| uids.without(other)).collect();
                (!rest.is_empty()).then_some(Self::Users(rest))
            }
            (Self::Cgroups(own), Self::Cgroups(other)) => {
                rest(own, |name| other.iter().any(|other| inside(name, other))).map(Self::Cgroups)
            }
            (Self::Netns(own), Self::Netns(other)) if own == other => None,
            _ => Some(self.clone()),
        }
    }
}

fn rest<T: Clone>(own: &[T], is_held: impl Fn(&T) -> bool) -> Option<Vec<T>> {
    let rest: Vec<T> = own.iter().filter(|one| !is_held(one)).cloned().collect();
    (!rest.is_empty()).then_some(rest)
}

/// A tunnel or an uplink of `other` that stands in a list of `path` where it would open a way.
fn strays(path: &PathConfig, other: &PathConfig) -> Option<(&'static str, Problem)> {
    let own = path.name == other.name;
    let tunnel = &other.interface;
    let uplinks: &[String] = match &path.uplinks {
        Uplinks::Auto => &[],
        Uplinks::Named(names) => names,
    };
    let workload: &[String] = match &path.workload {
        Workload::Interfaces(names) => names,
        _ => &[],
    };
    let others = || Problem::TunnelOfAnother(tunnel.clone(), other.name.to_string());
    if !own && uplinks.contains(tunnel) {
        return Some(("uplinks", others()));
    }
    if !own && path.allow_interfaces.contains(tunnel) {
        return Some(("allow_interfaces", others()));
    }
    if workload.contains(tunnel) {
        return Some(("workload", Problem::WorkloadIsTunnel(tunnel.clone())));
    }
    let leads_out = |name: &&String| match &other.uplinks {
        Uplinks::Named(names) => names.contains(name),
        Uplinks::Auto => false,
    };
    let uplink = workload.iter().find(leads_out)?;
    Some(("workload", Problem::WorkloadIsUplink(uplink.clone())))
}
