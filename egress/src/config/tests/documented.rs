//! docs/config.md against the loader: every option that is read is described there, with the
//! default that holds, and nothing is described that is not read.
//!
//! No list of options is kept for it: the loader itself tells what it knows, when it is shown a
//! key that it does not know.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;

/// A key that no mapping has.
const FOREIGN: &str = "no_such_option";

/// What the file has to have, and a mapping wherever one can be.
fn whole() -> Value {
    json!({
        "paths": [{
            "name": "media",
            "interface": "wg0",
            "workload": {"interfaces": ["br-media"]},
            "endpoints": [{
                "name": "primary",
                "address": "198.51.100.1:51820",
                "public_key": PEER,
                "private_key_file": "backup.key",
            }],
            "health": {"probe": {"target": "10.64.0.1"}},
        }],
        "ids": {"unifi": {"url": "https://192.168.10.1", "api_key_file": "unifi.key"}},
        "watchdog": {"silent_after": "5m"},
    })
}

/// The place of `paths[].health` in the tree: `/paths/0/health`.
fn pointer(option: &str) -> String {
    format!("/{}", option.replace("[]", "/0").replace('.', "/"))
}

/// The whole file with this option as given, or without it.
fn with(option: &str, value: Option<Value>) -> Value {
    let mut tree = whole();
    if option.is_empty() {
        return value.unwrap_or_default();
    }
    let (mapping, key) = option.rsplit_once('.').unwrap_or(("", option));
    let mapping = if mapping.is_empty() { String::new() } else { pointer(mapping) };
    let fields = tree.pointer_mut(&mapping).and_then(Value::as_object_mut);
    let fields = fields.unwrap_or_else(|| panic!("give whole() a mapping at {mapping}"));
    match value {
        Some(value) => fields.insert(key.to_owned(), value),
        None => fields.remove(key),
    };
    tree
}

/// The keys that the loader knows where it finds `value`, if it looks for a mapping there.
fn keys(world: &World, option: &str, value: Value) -> Option<&'static [&'static str]> {
    match world.load(with(option, Some(value)).to_string()).map_err(|error| *error.problem) {
        Err(Problem::UnknownKey { known, .. }) => Some(known),
        _ => None,
    }
}

/// Every option below a mapping, as in `paths[].health.probe.target`.
fn options(world: &World, mapping: &str, known: &[&str], found: &mut BTreeSet<String>) {
    for key in known {
        let option =
            if mapping.is_empty() { (*key).to_owned() } else { format!("{mapping}.{key}") };
        if let Some(known) = keys(world, &option, json!({FOREIGN: 1})) {
            options(world, &option, known, found);
        } else if let Some(known) = keys(world, &option, json!([{FOREIGN: 1}])) {
            options(world, &format!("{option}[]"), known, found);
        }
        found.insert(option);
    }
}

/// What docs/config.md says of an option: its place, and the default where its table has some.
type Row = (String, Option<String>);

fn documented() -> Vec<Row> {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/config.md");
    let text = fs::read_to_string(file).expect("docs/config.md");
    let (mut mapping, mut columns, mut rows) = (String::new(), Vec::new(), Vec::new());
    for line in text.lines() {
        if let Some(heading) = line.strip_prefix("## ") {
            let quoted = heading.strip_prefix('`').and_then(|heading| heading.strip_suffix('`'));
            mapping = quoted.unwrap_or_default().to_owned();
            rows.extend(quoted.map(|place| (place.trim_end_matches("[]").to_owned(), None)));
        }
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells.as_slice() {
            ["", "option", rest @ .., ""] => columns = rest.to_vec(),
            ["", option, rest @ .., ""] if !columns.is_empty() && option.starts_with('`') => {
                let option = format!("{mapping}.{}", option.trim_matches('`'));
                let default = columns.iter().position(|column| *column == "default");
                rows.push((option, default.map(|nth| rest[nth].to_owned())));
            }
            ["", ..] => {}
            _ => columns.clear(),
        }
    }
    rows
}

#[test]
fn every_option_is_documented_and_no_other() {
    let world = World::new();
    let root = keys(&world, "", json!({FOREIGN: 1})).expect("the file is a mapping");
    let mut known = BTreeSet::new();
    options(&world, "", root, &mut known);
    let documented: BTreeSet<String> = documented().into_iter().map(|(option, _)| option).collect();
    let missing: Vec<_> = known.difference(&documented).collect();
    assert!(missing.is_empty(), "read, and not in docs/config.md: {missing:?}");
    let gone: Vec<_> = documented.difference(&known).collect();
    assert!(gone.is_empty(), "in docs/config.md, and never read: {gone:?}");
}

/// Written out, a default makes the same configuration as left out.
#[test]
fn every_documented_default_is_the_one_that_holds() {
    const PLACE: &str = "the default";
    let world = World::new();
    let mut written = 0;
    for (option, default) in documented() {
        let Some(default) = default else { continue };
        let left_out = world.load(with(&option, None).to_string());
        if default.starts_with("required") {
            let problem = left_out.map_err(|error| *error.problem).err();
            assert!(
                matches!(problem, Some(Problem::Missing(_))),
                "{option} is said to be required; without it: {problem:?}"
            );
            continue;
        }
        let left_out =
            left_out.unwrap_or_else(|error| panic!("{option} is said to be optional: {error}"));
        // A text that is no value: what holds is found elsewhere, or there is nothing to hold.
        let Some(value) = default.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) else {
            continue;
        };
        let file = with(&option, Some(json!(PLACE))).to_string();
        let file = file.replace(&format!("{PLACE:?}"), value);
        let said = world
            .load(&file)
            .unwrap_or_else(|error| panic!("{option}, with its documented default: {error}"));
        assert_eq!(format!("{said:?}"), format!("{left_out:?}"), "the default of {option}");
        written += 1;
    }
    assert!(written > 15, "only {written} defaults were found in docs/config.md");
}
