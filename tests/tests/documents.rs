//! The pages against what is there: links, names of tests and files, the command line, licences.
//!
//! To write docs/command-line.md anew: `UPDATE_SNAPSHOTS=1 cargo test -p lab --test documents`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lab::World;
use lab::markdown::{Page, spans};
use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file of the tree with this ending, without what was built or belongs to git.
fn files(ending: &str) -> Vec<PathBuf> {
    let (mut found, mut left) = (Vec::new(), vec![root()]);
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(&dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != ".git" {
                left.push(path);
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    found
}

fn page(file: &Path) -> Page {
    let text = fs::read_to_string(file);
    Page::read(&text.unwrap_or_else(|error| panic!("{}: {error}", file.display())))
}

#[test]
fn every_link_leads_somewhere() {
    let (mut checked, mut broken) = (0, Vec::new());
    for file in files(".md") {
        let own = page(&file);
        for link in own.links() {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            checked += 1;
            let (name, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = if name.is_empty() { file.clone() } else { file.with_file_name(name) };
            let is_there = target.exists()
                && (anchor.is_empty() || page(&target).anchors().iter().any(|it| it == anchor));
            if !is_there {
                broken.push(format!("{}: {link}", file.display()));
            }
        }
    }
    assert!(broken.is_empty(), "links that lead nowhere:\n{}", broken.join("\n"));
    assert!(checked > 50, "only {checked} links were found");
}

/// The promises are worth what their tests are: one that is named and gone is a promise unkept.
#[test]
fn every_test_that_is_named_is_there() {
    let sources: String =
        files(".rs").iter().map(|file| fs::read_to_string(file).expect("a source")).collect();
    let rules: BTreeMap<String, String> = files(".yml")
        .iter()
        .map(|file| (file.file_name().unwrap_or_default().to_string_lossy().into_owned(), file))
        .map(|(name, file)| (name, fs::read_to_string(file).expect("a file")))
        .collect();
    let (mut checked, mut missing) = (0, Vec::new());
    let is_name = |text: &str| {
        text.contains('_')
            && text.chars().all(|c| c.is_ascii_lowercase() || "_0123456789".contains(c))
    };
    // `s3_...`, wherever it is written.
    let is_promises = |text: &str| {
        text.strip_prefix('s').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
    };
    for name in ["DESIGN.md", "docs/threat-model.md"] {
        let design = page(&root().join(name));
        let spans = design.paragraphs().flat_map(|paragraph| {
            let lists_tests = paragraph.contains("Tests: ");
            spans(paragraph).into_iter().filter(move |span| lists_tests || is_promises(span))
        });
        for span in spans {
            let there = if let Some((file, test)) = span.split_once(": \"") {
                rules.get(file).is_some_and(|text| text.contains(test.trim_end_matches('"')))
            } else if span.strip_suffix(".yml").is_some_and(|stem| !stem.contains(['*', '/'])) {
                rules.contains_key(&span)
            } else if let Some(start) = span.strip_suffix('*').filter(|start| is_name(start)) {
                sources.contains(&format!("fn {start}"))
            } else if is_name(&span) {
                sources.contains(&format!("fn {span}("))
            } else {
                continue;
            };
            checked += 1;
            if !there {
                missing.push(format!("{name}: {span}"));
            }
        }
    }
    assert!(missing.is_empty(), "named, and not there:\n{}", missing.join("\n"));
    assert!(checked > 80, "only {checked} names were found");
}

/// The map of the house, and the way from a promise to its test.
#[test]
fn every_file_on_the_map_is_there() {
    let (mut checked, mut missing) = (0, Vec::new());
    for name in ["CONTRIBUTING.md", "README.md", "docs/threat-model.md", "docs/upgrade.md"] {
        let map = page(&root().join(name));
        let in_blocks = map.blocks().lines().filter_map(|line| line.split_whitespace().next());
        let named = map.spans().into_iter().chain(in_blocks.map(str::to_owned));
        for path in named {
            let ours = root().join(path.split('/').next().unwrap_or_default()).is_dir();
            if !path.contains('/') || path.contains([' ', '*']) || path.starts_with('/') || !ours {
                continue;
            }
            checked += 1;
            // What is built is not there yet.
            if !path.starts_with("target/") && !root().join(&path).exists() {
                missing.push(format!("{name}: {path}"));
            }
        }
    }
    assert!(missing.is_empty(), "on the map, and not there:\n{}", missing.join("\n"));
    assert!(checked > 30, "only {checked} files were found");
}

const COMMAND_LINE: &str = "docs/command-line.md";

/// What is above it in the page is written by hand.
const GENERATED: &str = "<!-- Below this line: what the programs say of themselves. -->\n";

fn help(program: &str, commands: &[String]) -> String {
    // Without it the width would be that of whatever terminal there is.
    let output = Command::new(World::program(program))
        .args(commands)
        .arg("--help")
        .env("COLUMNS", "100")
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(output.status.success(), "{program} {commands:?}: {output:?}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines().flat_map(|line| [line.trim_end(), "\n"]).collect()
}

/// The options of a help text, each with all its lines, and what stands above them.
fn parted(help: &str) -> (&str, Vec<String>) {
    let (above, listed) = help.split_once("Options:\n").unwrap_or((help, ""));
    let mut options: Vec<String> = Vec::new();
    for line in listed.lines() {
        match options.last_mut() {
            Some(option) if !line.trim_start().starts_with('-') => {
                option.push('\n');
                option.push_str(line);
            }
            _ => options.push(line.to_owned()),
        }
    }
    (above, options)
}

/// Whatever the width that it was wrapped to.
fn unwrapped(option: &str) -> String {
    option.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The names of the commands that a help text lists; a description goes on further in.
fn listed(help: &str) -> impl Iterator<Item = &str> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    lines
        .take_while(|line| !line.is_empty())
        .filter(|line| !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
}

/// A program's help, and that of all commands below it. What is said above is not said again.
fn described(program: &str, commands: &[String], said: &BTreeSet<String>, to: &mut String) {
    let help = help(program, commands);
    let (above, options) = parted(&help);
    let own: Vec<&String> = options.iter().filter(|it| !said.contains(&unwrapped(it))).collect();
    let name = [&[program.to_owned()], commands].concat().join(" ");
    let level = if commands.is_empty() { "##" } else { "###" };
    let mut text = above.trim_end().to_owned();
    if !own.is_empty() {
        text.push_str("\n\nOptions:");
        for option in own {
            text.extend(["\n", option.trim_end()]);
        }
    }
    write!(to, "\n{level} `{name}`\n\n```text\n{text}\n```\n").expect("a string");
    let here = options.iter().map(|option| unwrapped(option));
    let said: BTreeSet<String> = said.iter().cloned().chain(here).collect();
    for command in listed(&help) {
        described(program, &[commands, &[command.to_owned()]].concat(), &said, to);
    }
}

#[test]
fn the_command_line_is_described_as_it_is() {
    let mut generated = String::new();
    for program in ["actuator", "exporter"] {
        described(program, &[], &BTreeSet::new(), &mut generated);
    }
    let file = root().join(COMMAND_LINE);
    let text = fs::read_to_string(&file).expect(COMMAND_LINE);
    let (by_hand, on_record) = text.split_once(GENERATED).expect("the line that parts the page");
    if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
        fs::write(&file, format!("{by_hand}{GENERATED}{generated}")).expect("written");
    } else {
        assert!(
            on_record == generated,
            "{COMMAND_LINE} is not what the programs say; see the change with: \
             UPDATE_SNAPSHOTS=1 cargo test -p lab --test documents && git diff {COMMAND_LINE}"
        );
    }
}

/// The first two cells of a table's rows, in a section of docs/licences.md.
fn licences(section: &str) -> BTreeMap<String, String> {
    let text = fs::read_to_string(root().join("docs/licences.md")).expect("docs/licences.md");
    let below = text.lines().skip_while(|line| *line != format!("## {section}")).skip(1);
    let rows =
        below.take_while(|line| !line.starts_with("## ")).filter(|line| line.starts_with("| `"));
    rows.filter_map(|row| {
        let mut cells = row.split('|').skip(1).map(|cell| cell.trim().trim_matches('`').to_owned());
        Some((cells.next()?, cells.next()?))
    })
    .collect()
}

#[test]
fn every_dependency_has_a_licence_that_is_allowed() {
    let (allowed, by_name) = (licences("Allowed"), licences("By name"));
    let target = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["metadata", "--format-version=1", "--locked", "--filter-platform", &target])
        .current_dir(root())
        .output()
        .expect("cargo metadata");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let (mut used, mut refused) = (BTreeSet::new(), Vec::new());
    for package in packages.iter().filter(|package| !package["source"].is_null()) {
        let name = package["name"].as_str().unwrap_or_default();
        let licence = package["license"].as_str().unwrap_or("none stated");
        if by_name.get(name).is_some_and(|known| known == licence) {
            used.insert(name.to_owned());
            continue;
        }
        let read = spdx::Expression::parse_mode(licence, spdx::ParseMode::LAX);
        let fine = read.is_ok_and(|expression| {
            used.extend(expression.requirements().map(|one| one.req.to_string()));
            expression.evaluate(|one| allowed.contains_key(&one.to_string()))
        });
        if !fine {
            refused.push(format!("{name}: {licence}"));
        }
    }
    assert!(refused.is_empty(), "not allowed by docs/licences.md:\n{}", refused.join("\n"));
    let idle: Vec<_> =
        allowed.keys().chain(by_name.keys()).filter(|it| !used.contains(*it)).collect();
    assert!(idle.is_empty(), "in docs/licences.md, and nothing has it: {idle:?}");
}
