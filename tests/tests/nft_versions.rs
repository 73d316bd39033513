//! The kernel's rules are one thing, whichever version of nft wrote them: one digest, and each
//! version replaces what another has written. `scripts/nft-versions.sh` fetches the versions.

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use lab::{EgressConfig, Endpoint, Keepalive, Ns, World, inside};
use serde_json::Value;

/// A version of nft that is here to be run.
struct Version {
    name: String,
    /// `PATH` with this version first.
    path: String,
}

/// This machine's own, and what was fetched.
fn versions(world: &World) -> Vec<Version> {
    let usual = std::env::var("PATH").expect("a PATH");
    let mut found = vec![Version { name: String::new(), path: usual.clone() }];
    let programs = World::program("actuator");
    let fetched = programs.parent().and_then(|dir| dir.parent()).map(|dir| dir.join("nft"));
    for suite in ["trixie", "forky"] {
        let directory: PathBuf = fetched.clone().unwrap_or_default().join(suite);
        if directory.join("nft").is_file() {
            let path = format!("{}:{usual}", directory.display());
            found.push(Version { name: String::new(), path });
        } else {
            println!("WITHOUT the nft of Debian {suite}: scripts/nft-versions.sh fetches it");
        }
    }
    for version in &mut found {
        let said = run(world, version, &["nft", "--version"]);
        said.split(' ').nth(1).unwrap_or_default().clone_into(&mut version.name);
    }
    found
}

/// Runs a command with this version of nft, which must succeed.
#[track_caller]
fn run(world: &World, version: &Version, line: &[&str]) -> String {
    let output = try_to_run(world, version, line);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{line:?} with nft {}: {} {err}", version.name, output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn try_to_run(world: &World, version: &Version, line: &[&str]) -> Output {
    let path = format!("PATH={}", version.path);
    let argv: Vec<&str> = ["env", &path].into_iter().chain(line.iter().copied()).collect();
    world.run_within(Ns::Egress, &argv, "", Duration::from_secs(60))
}

#[track_caller]
fn actuator(world: &World, version: &Version, arguments: &[&str]) -> String {
    let line = world.program_line("actuator", arguments);
    run(world, version, &line.iter().map(String::as_str).collect::<Vec<_>>())
}

/// What the last converge has read back from the kernel.
fn digests(world: &World) -> [Value; 2] {
    let state = std::fs::read_to_string(world.state_file()).expect("a state file");
    let state: Value = serde_json::from_str(&state).expect("JSON");
    ["killswitch", "watch"].map(|wall| state["intended"][wall].clone())
}

#[test]
fn s7_rules_have_one_digest_whichever_nft_wrote_them() {
    inside("s7_rules_have_one_digest_whichever_nft_wrote_them", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        world.write_config(&EgressConfig::quick());
        let versions = versions(world);
        let mut first = None;
        for writer in &versions {
            for next in &versions {
                println!("nft {} replaces what nft {} has written", next.name, writer.name);
                actuator(world, writer, &["converge"]);
                let written = digests(world);
                assert_eq!(
                    *first.get_or_insert_with(|| written.clone()),
                    written,
                    "written by nft {}",
                    writer.name
                );
                assert!(is_intact(world, next), "read by the program that runs nft {}", next.name);
                actuator(world, next, &["converge"]);
                assert_eq!(first, Some(digests(world)), "replaced by nft {}", next.name);
            }
        }
        // Another rule is seen, whichever version added it.
        for writer in &versions {
            let rule = ["nft", "add", "rule", "inet", "vpn_egress", "input", "drop"];
            run(world, writer, &rule);
            assert!(!is_intact(world, &versions[0]), "nft {}", writer.name);
            actuator(world, &versions[0], &["converge"]);
            assert!(is_intact(world, &versions[0]));
        }
    });
}

fn is_intact(world: &World, version: &Version) -> bool {
    let line = world.program_line("actuator", &["status", "--json"]);
    // Its exit code says whether all is well.
    let output = try_to_run(world, version, &line.iter().map(String::as_str).collect::<Vec<_>>());
    let status: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    status["paths"][0]["rules_intact"] == true
}
