//! The boot's first rules: everything is refused until the lock is loaded. As few expressions as
//! possible, so that a cold kernel needs one module for them (`nf_tables`) and not the ten of the lock.
//!
//! The transaction that loads the killswitch deletes this table, in every program: between the two
//! there is no gap, and this one never outlives the lock it stood in for. It is never loaded on a host
//! that nobody has converged, nor where a killswitch is loaded: it permits no `management`.

use nftables::types::NfFamily;

use super::dsl::{accept, out_by, rule};
use super::nft::{self, NftError};
use super::permits::dhcp_and_ndp;
use super::table::{Hook, Policy, TableSpec};
use super::transaction;

pub const TABLE: &str = "vpn_egress_boot";

/// After source NAT (100): nothing changes the packet or its device any more.
const LAST: i32 = 300;

/// Loads it. Loading it again changes nothing.
pub fn load() -> Result<(), NftError> {
    nft::apply("refuse everything until the lock is loaded", &commands())
}

/// For a host whose lock was taken off by a person.
pub fn remove() -> Result<(), NftError> {
    transaction::remove(NfFamily::INet, TABLE).map(|_| ())
}

fn commands() -> String {
    format!("{}{}", deleted(), table().text())
}

/// Deletes the table, whether or not it is there: for other transactions to begin with.
pub fn deleted() -> String {
    format!("add table inet {TABLE}\ndelete table inet {TABLE}\n")
}

fn table() -> TableSpec {
    let mut spec = TableSpec::new(NfFamily::INet, TABLE);
    // The first hook still shows the device of before re-routing; the last one sees what is forwarded
    // as well, and the device is final there.
    for (point, priority) in [("output", 0), ("postrouting", LAST)] {
        let mut rules = vec![rule([out_by("lo"), accept()], "this host to itself")];
        rules.extend(dhcp_and_ndp());
        let at = Hook::filter(point, priority, Policy::Drop);
        spec.base_chain(point, at, None, rules);
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s1_the_first_rules_need_no_module_but_nf_tables() {
        let text = table().text();
        for expression in ["ct ", "reject", "fib ", "socket ", "counter", "log", "set ", " limit "]
        {
            assert!(!text.contains(expression), "{expression}: {text}");
        }
        assert_eq!(text.matches("policy drop").count(), 2, "{text}");
    }
}
