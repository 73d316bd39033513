//! A table as text that is the same for the same rules, whichever `nft` has written them.
//!
//! It holds what decides about a packet, and nothing else: not handles, positions, counts, comments
//! and hints for people (userdata, which differs by nft's version), nor the names and the order that
//! anonymous sets got. A comment decides nothing, so a comment that was changed is no other rule.

use std::fmt::Write as _;

use super::dump::{Chain, NFT_SET_EVAL, Set, Table};
use crate::netlink::Attributes;

/// `linux/netfilter/nf_tables.h`
const NFT_TABLE_F_DORMANT: u32 = 0x1;
const NFTA_EXPR_NAME: u16 = 1;
const NFTA_EXPR_DATA: u16 = 2;
const NFTA_SET_KEY_LEN: u16 = 5;
const NFTA_SET_DATA_TYPE: u16 = 6;
const NFTA_SET_DATA_LEN: u16 = 7;
const NFTA_SET_DESC: u16 = 9;
const NFTA_SET_DESC_SIZE: u16 = 1;
const NFTA_SET_DESC_CONCAT: u16 = 2;
const NFTA_SET_TIMEOUT: u16 = 11;
const NFTA_SET_OBJ_TYPE: u16 = 15;
const NFTA_SET_EXPR: u16 = 17;
const NFTA_SET_EXPRESSIONS: u16 = 18;
const NFT_SET_INTERVAL: u32 = 0x4;
const NFT_SET_MAP: u32 = 0x8;
const NFT_SET_TIMEOUT: u32 = 0x10;
const NFT_SET_OBJECT: u32 = 0x40;
const NFTA_SET_ELEM_KEY: u16 = 1;
const NFTA_SET_ELEM_DATA: u16 = 2;
const NFTA_SET_ELEM_FLAGS: u16 = 3;
const NFTA_SET_ELEM_TIMEOUT: u16 = 4;
const NFTA_SET_ELEM_OBJREF: u16 = 9;
const NFTA_SET_ELEM_KEY_END: u16 = 10;
const NFT_SET_ELEM_INTERVAL_END: u32 = 0x1;
const NFTA_DATA_VALUE: u16 = 1;

/// Of the flags of a set, those that decide what it matches.
const MEANT: u32 = NFT_SET_INTERVAL | NFT_SET_MAP | NFT_SET_TIMEOUT | NFT_SET_EVAL | NFT_SET_OBJECT;

/// `later`: how many steps of priority its base chains come after those that it is compared with.
pub fn text(table: &Table, later: i32) -> String {
    let mut lines = vec![format!("table {}", table.flags & NFT_TABLE_F_DORMANT)];
    lines.extend(table.flowtables.iter().map(|name| format!("flowtable {name}")));
    lines.extend(table.objects.iter().map(|it| format!("object {} {}", it.kind, it.name)));
    lines.extend(table.chains.iter().map(|it| chain(it, later)));
    let named = table.sets.iter().filter(|(_, set)| !set.is_anonymous());
    lines.extend(named.map(|(name, set)| format!("set {name} {}", self::set(table, set))));
    lines.sort();
    // Within a chain the order counts; between chains the kernel may list as it likes.
    let mut rules: Vec<_> = table.rules.iter().collect();
    rules.sort_by_key(|rule| &rule.chain);
    lines.extend(rules.into_iter().map(|rule| {
        format!("rule {}{}", rule.chain, expressions(table, Attributes::new(&rule.expressions)))
    }));
    lines.push(String::new());
    lines.join("\n")
}

fn chain(chain: &Chain, later: i32) -> String {
    let Chain { name, hook, flags } = chain;
    match hook {
        None => format!("chain {name} {flags}"),
        Some(at) => {
            let priority = at.priority.saturating_sub(later);
            let (kind, number, policy) = (&at.kind, at.number, at.policy);
            format!("chain {name} {flags} {kind} {number} {priority} {policy} {:?}", at.devices)
        }
    }
}

fn expressions(table: &Table, list: Attributes<'_>) -> String {
    list.iter().map(|(_, one)| expression(table, Attributes::new(one))).collect()
}

fn expression(table: &Table, expression: Attributes<'_>) -> String {
    let name = expression.text(NFTA_EXPR_NAME).unwrap_or("?");
    // The attribute that names a set, where there is one; and what does not decide: the id that a set
    // had within its transaction, and what moves with the traffic.
    let (set, left_out): (Option<u16>, &[u16]) = match name {
        "lookup" => (Some(1), &[4]),
        "dynset" => (Some(1), &[2]),
        "objref" => (Some(4), &[5]),
        "counter" | "last" => (None, &[1, 2]),
        "quota" => (None, &[4]),
        _ => (None, &[]),
    };
    let mut text = format!(" {name}(");
    let data = expression.nested(NFTA_EXPR_DATA).into_iter().flat_map(Attributes::iter);
    for (kind, value) in data.filter(|(kind, _)| !left_out.contains(kind)) {
        let _ = write!(text, "{kind}=");
        let anonymous = set.filter(|its| *its == kind).and_then(|_| anonymous(table, value));
        match anonymous {
            Some(content) => text.push_str(&content),
            None => hex(&mut text, value),
        }
        text.push(' ');
    }
    text.push(')');
    text
}

/// The content of an anonymous set, in place of its name.
fn anonymous(table: &Table, name: &[u8]) -> Option<String> {
    let name =
        name.split(|byte| *byte == 0).next().and_then(|name| std::str::from_utf8(name).ok())?;
    let set = table.sets.get(name).filter(|set| set.is_anonymous())?;
    Some(self::set(table, set))
}

fn set(table: &Table, set: &Set) -> String {
    let its = Attributes::new(&set.attributes);
    let mut text = format!("{{{:x}", set.flags & MEANT);
    for kind in [NFTA_SET_KEY_LEN, NFTA_SET_DATA_LEN, NFTA_SET_OBJ_TYPE] {
        let _ = write!(text, " {}", its.be32(kind).unwrap_or(0));
    }
    // A type of data is nft's own affair, but for the one that says "a verdict".
    let data = its.be32(NFTA_SET_DATA_TYPE).filter(|_| set.is_map());
    let _ = write!(text, " {}", u8::from(data == Some(NFT_DATA_VERDICT)));
    let _ = write!(text, " {}", its.be64(NFTA_SET_TIMEOUT).unwrap_or(0));
    let description = its.nested(NFTA_SET_DESC);
    if set.flags & NFT_SET_EVAL != 0 {
        let size = description.and_then(|its| its.be32(NFTA_SET_DESC_SIZE));
        let _ = write!(text, " size {}", size.unwrap_or(0));
    }
    if set.flags & NFT_SET_INTERVAL != 0
        && let Some(fields) = description.and_then(|its| its.get(NFTA_SET_DESC_CONCAT))
    {
        text.push_str(" fields ");
        hex(&mut text, fields);
    }
    if let Some(one) = its.nested(NFTA_SET_EXPR) {
        text.push_str(&expression(table, one));
    }
    if let Some(list) = its.nested(NFTA_SET_EXPRESSIONS) {
        text.push_str(&expressions(table, list));
    }
    text.push(':');
    for element in elements(set) {
        let _ = write!(text, " {element}");
    }
    text.push('}');
    text
}

const NFT_DATA_VERDICT: u32 = 0xffff_ff00;

/// Sorted. Of an interval set the ranges, however many pieces nft has made of them.
fn elements(set: &Set) -> Vec<String> {
    let all: Vec<Attributes<'_>> =
        set.elements.iter().map(|element| Attributes::new(element)).collect();
    let concatenated = all.iter().any(|element| element.get(NFTA_SET_ELEM_KEY_END).is_some());
    if set.flags & NFT_SET_INTERVAL != 0 && !set.is_map() && !concatenated {
        return ranges(&all);
    }
    let mut elements: Vec<String> = all.into_iter().map(element).collect();
    elements.sort();
    elements
}

fn element(element: Attributes<'_>) -> String {
    let mut text = String::new();
    for kind in [NFTA_SET_ELEM_KEY, NFTA_SET_ELEM_KEY_END, NFTA_SET_ELEM_DATA, NFTA_SET_ELEM_OBJREF]
    {
        if let Some(value) = element.get(kind) {
            let _ = write!(text, "{kind}=");
            hex(&mut text, value);
        }
    }
    let flags = element.be32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
    let timeout = element.be64(NFTA_SET_ELEM_TIMEOUT).unwrap_or(0);
    let _ = write!(text, "/{flags}/{timeout}");
    text
}

/// An interval set holds where its ranges begin and where they end, the end left out.
fn ranges(elements: &[Attributes<'_>]) -> Vec<String> {
    let mut edges: Vec<(&[u8], bool)> = elements
        .iter()
        .filter_map(|element| {
            let key = element.nested(NFTA_SET_ELEM_KEY)?.get(NFTA_DATA_VALUE)?;
            let flags = element.be32(NFTA_SET_ELEM_FLAGS).unwrap_or(0);
            Some((key, flags & NFT_SET_ELEM_INTERVAL_END == 0))
        })
        .collect();
    // An end comes before a beginning at the same place.
    edges.sort_unstable();
    let mut ranges: Vec<(&[u8], Option<&[u8]>)> = Vec::new();
    let mut open: Option<&[u8]> = None;
    for (key, begins) in edges {
        if begins {
            open = open.or(Some(key));
        } else if let Some(start) = open.take() {
            match ranges.last_mut().filter(|(_, end)| *end == Some(start)) {
                Some(last) => last.1 = Some(key),
                None => ranges.push((start, Some(key))),
            }
        }
    }
    // To the last address there is.
    ranges.extend(open.map(|start| (start, None)));
    let shown = |(start, end): (&[u8], Option<&[u8]>)| {
        let mut text = String::new();
        hex(&mut text, start);
        text.push('-');
        hex(&mut text, end.unwrap_or_default());
        text
    };
    ranges.into_iter().map(shown).collect()
}

pub fn hex(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(text, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::dump::{Hook, Object, Rule};
    use super::*;
    use crate::netlink::Request;

    const NFT_SET_ANONYMOUS: u32 = 0x1;
    const NFTA_SET_FLAGS: u16 = 3;

    fn attributes(fill: impl FnOnce(Request) -> Request) -> Vec<u8> {
        fill(Request::new(0, &[])).payload().to_vec()
    }

    /// A rule of one expression.
    fn rule(chain: &str, name: &str, data: &[(u16, &[u8])]) -> Rule {
        let expressions = attributes(|list| {
            list.nested(1, |one| {
                one.text(NFTA_EXPR_NAME, name).nested(NFTA_EXPR_DATA, |its| {
                    data.iter().fold(its, |its, (kind, value)| its.bytes(*kind, value))
                })
            })
        });
        Rule { chain: chain.to_owned(), expressions }
    }

    fn verdict(chain: &str, verdict: u8) -> Rule {
        rule(chain, "immediate", &[(1, &[verdict])])
    }

    fn set(flags: u32, elements: &[(u8, u32)]) -> Set {
        let element = |(key, flags): &(u8, u32)| {
            attributes(|one| {
                one.nested(NFTA_SET_ELEM_KEY, |its| its.bytes(NFTA_DATA_VALUE, &[*key]))
                    .bytes(NFTA_SET_ELEM_FLAGS, &flags.to_be_bytes())
                    // A comment, or whatever nft likes to note.
                    .bytes(6, &[*key, 77])
            })
        };
        Set {
            flags,
            attributes: attributes(|its| its.bytes(NFTA_SET_FLAGS, &flags.to_be_bytes())),
            elements: elements.iter().map(element).collect(),
        }
    }

    fn table(rules: Vec<Rule>, sets: &[(&str, Set)]) -> Table {
        let chain = |name: &str, hook| Chain { name: name.to_owned(), hook, flags: 0 };
        let hook = Hook {
            kind: "filter".to_owned(),
            number: 3,
            priority: 1,
            policy: 0,
            devices: Vec::new(),
        };
        Table {
            handle: 7,
            flags: 0,
            chains: vec![chain("a", Some(hook)), chain("b", None)],
            rules,
            sets: sets
                .iter()
                .map(|(name, set)| ((*name).to_owned(), set.clone()))
                .collect::<BTreeMap<_, _>>(),
            objects: vec![Object { name: "c".to_owned(), kind: 1 }],
            flowtables: Vec::new(),
        }
    }

    #[test]
    fn s7_what_changes_a_rule_changes_the_digest_and_nothing_else_does() {
        let rules = || vec![verdict("a", 1), verdict("a", 0), verdict("b", 0)];
        let base = text(&table(rules(), &[("s", set(0, &[(1, 0), (2, 0)]))]), 0);

        // Another order between chains and in a set, another handle.
        let rules = || vec![verdict("b", 0), verdict("a", 1), verdict("a", 0)];
        let mut same = table(rules(), &[("s", set(0, &[(2, 0), (1, 0)]))]);
        same.handle = 8;
        same.chains.reverse();
        assert_eq!(base, text(&same, 0));

        let reordered = vec![verdict("a", 0), verdict("a", 1), verdict("b", 0)];
        let mut changed = vec![
            table(reordered, &[("s", set(0, &[(1, 0), (2, 0)]))]),
            table(rules(), &[("s", set(0, &[(1, 0), (2, 0), (3, 0)]))]),
            table(rules(), &[("s", set(0, &[(1, 0), (3, 0)]))]),
            table(rules(), &[]),
        ];
        let with = |change: &dyn Fn(&mut Table)| {
            let mut table = table(rules(), &[("s", set(0, &[(1, 0), (2, 0)]))]);
            change(&mut table);
            table
        };
        changed.extend([
            with(&|table| table.flags = NFT_TABLE_F_DORMANT),
            with(&|table| table.objects.clear()),
            with(&|table| table.chains[1].hook = table.chains[0].hook.clone()),
            with(&|table| table.chains[0].hook.as_mut().expect("a hook").policy = 1),
            with(&|table| table.chains[0].hook.as_mut().expect("a hook").priority = 2),
            with(&|table| {
                table.chains[0].hook.as_mut().expect("a hook").devices = vec!["eth0".to_owned()];
            }),
        ]);
        for (number, changed) in changed.iter().enumerate() {
            assert_ne!(base, text(changed, 0), "{number}");
        }
    }

    #[test]
    fn an_anonymous_set_is_its_content_whatever_its_name() {
        let named = |name: &str, elements: &[(u8, u32)]| {
            let rule =
                rule("a", "lookup", &[(1, name.as_bytes()), (2, &[1]), (4, name.as_bytes())]);
            text(&table(vec![rule], &[(name, set(NFT_SET_ANONYMOUS, elements))]), 0)
        };
        assert_eq!(named("__set0", &[(1, 0), (2, 0)]), named("__set9", &[(2, 0), (1, 0)]));
        assert_ne!(named("__set0", &[(1, 0), (2, 0)]), named("__set0", &[(1, 0), (3, 0)]));
    }

    #[test]
    fn what_moves_with_the_traffic_is_left_out() {
        let counted =
            |packets: u8| text(&table(vec![rule("a", "counter", &[(2, &[packets])])], &[]), 0);
        assert_eq!(counted(0), counted(9));
        // Filled by the rules themselves.
        let filled = |elements: &[(u8, u32)]| {
            let mut set = set(NFT_SET_EVAL, elements);
            set.elements.clear();
            text(&table(Vec::new(), &[("s", set)]), 0)
        };
        assert_eq!(filled(&[]), filled(&[(1, 0)]));
    }

    #[test]
    fn a_copy_reads_like_its_original() {
        let original = table(vec![verdict("a", 0)], &[]);
        let mut copy = table(vec![verdict("a", 0)], &[]);
        copy.flags = 0x2;
        copy.chains[0].hook.as_mut().expect("a hook").priority += 1;
        assert_eq!(text(&original, 0), text(&copy, 1));
        assert_ne!(text(&original, 0), text(&copy, 0));
    }

    #[test]
    fn an_interval_set_is_its_ranges_in_however_many_pieces() {
        const END: u32 = NFT_SET_ELEM_INTERVAL_END;
        let ranges = |elements: &[(u8, u32)]| super::elements(&set(NFT_SET_INTERVAL, elements));
        let whole = ranges(&[(1, 0), (9, END)]);
        assert_eq!(whole, ["01-09"]);
        assert_eq!(whole, ranges(&[(0, END), (1, 0), (5, END), (5, 0), (9, END)]));
        assert_eq!(whole, ranges(&[(9, END), (5, 0), (1, 0)]));
        assert_eq!(ranges(&[(1, 0), (5, END), (6, 0), (9, END)]), ["01-05", "06-09"]);
        assert_eq!(ranges(&[(200, 0)]), ["c8-"], "to the last there is");
    }
}
