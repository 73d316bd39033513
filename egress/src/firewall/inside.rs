//! The wall inside a workload's own network namespace: by loopback and the tunnel, and by nothing else.
//!
//! The namespace has no other device, so this is the second line: it holds where somebody adds one.
//! Read and loaded by a thread that is inside.

use nftables::types::NfFamily;

use super::dsl::{accept, count, drop, in_by, is, out_by, prohibit, reset_tcp, rule};
use super::listing::Listing;
use super::nft::NftError;
use super::table::{Hook, Policy, TableSpec};
use super::transaction;

pub const TABLE: &str = "vpn_egress_netns";

const BLOCKED: &str = "blocked";

/// After every other chain: the device of a packet is final there.
const LAST: i32 = 300;

const TUNNEL: &str = "into the tunnel: by name, so a recreated device still matches";
const REFUSE: &str = "all else is blocked, and told at once, so that programs fail fast";
const HELD: &str = "routed again by another device after the output hook";

fn table(interface: &str) -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    spec.counter(BLOCKED);
    let blocked = count(BLOCKED);
    let to_itself = || rule([out_by("lo"), accept()], "the namespace to itself");
    let to_tunnel = || rule([out_by(interface), accept()], TUNNEL);
    let output = vec![
        to_itself(),
        to_tunnel(),
        rule([is("meta l4proto", "tcp"), blocked.clone(), reset_tcp()], REFUSE),
        rule([blocked.clone(), prohibit()], REFUSE),
    ];
    let answers = [in_by(interface), is("ct state", "established,related"), accept()];
    let forward = vec![
        to_tunnel(),
        rule(answers, "an answer to a namespace behind this one"),
        rule([blocked.clone(), drop()], REFUSE),
    ];
    let last = vec![to_itself(), to_tunnel(), rule([blocked, drop()], HELD)];
    spec.base_chain("output", Hook::filter("output", 0, Policy::Drop), None, output);
    spec.base_chain("forward", Hook::filter("forward", 0, Policy::Drop), None, forward);
    spec.base_chain("postrouting", Hook::filter("postrouting", LAST, Policy::Drop), None, last);
    spec
}

/// Loads the wall for this tunnel device, and says its digest as read back.
pub fn load(interface: &str) -> Result<String, NftError> {
    transaction::replace(&table(interface)).map(|loaded| loaded.digest().to_owned())
}

/// The digest of the wall that is there.
pub fn digest() -> Result<Option<String>, NftError> {
    Ok(Listing::read(NfFamily::INet, TABLE)?.map(|wall| wall.digest().to_owned()))
}
