//! The tasks of `docs/ansible.md`, as they are written there, by a real Ansible: changed, then ok.

use std::fs;
use std::time::Duration;

use lab::{EgressConfig, Endpoint, Keepalive, Ns, World, inside};

/// A play is three tasks; Ansible takes a second or so for each, more on a busy machine.
const PLAY: Duration = Duration::from_secs(120);

const PAGE: &str = include_str!("../../docs/ansible.md");
const CONFIG: &str = "/etc/vpn-egress/egress.yml";

/// The page's tasks as a play for this host; only where the config lies is another place.
fn write_play(world: &World) {
    let (_, from) = PAGE.split_once("```yaml\n").expect("the page has tasks");
    let (tasks, _) = from.split_once("```").expect("they end");
    assert_eq!(tasks.matches(CONFIG).count(), 1, "{tasks}");
    let config = world.scratch().join("egress.yml").display().to_string();
    let tasks = tasks.replace(CONFIG, &config).replace('\n', "\n    ");
    let head = "- hosts: localhost\n  connection: local\n  gather_facts: false\n  tasks:\n    ";
    world.write_file("play.yml", &format!("{head}{tasks}\n"), 0o644);
    // The program that the tasks call, with the files of this world.
    let line = world.program_line("actuator", &[]).join(" ");
    world.write_file("actuator", &format!("#!/bin/sh\nexec {line} \"$@\"\n"), 0o755);
}

/// What the template makes.
fn template(world: &World, config: &EgressConfig) {
    let file = world.write_config(config);
    let text = fs::read_to_string(&file).expect("the config");
    world.write_file("egress.yml.j2", &text, 0o644);
    fs::remove_file(file).expect("removed");
}

/// How many tasks have changed something, or would have.
#[track_caller]
fn play(world: &World, more: &[&str]) -> u32 {
    let scratch = world.scratch();
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("PATH={}:{path}", scratch.display());
    let home = format!("ANSIBLE_HOME={}", scratch.join("ansible").display());
    let file = scratch.join("play.yml").display().to_string();
    // Its default is in the home of the user whom /etc/passwd names, which is not this world's.
    let temporary = format!("ANSIBLE_REMOTE_TEMP={}", scratch.join("ansible/tmp").display());
    let mut line = vec!["env", &path, &home, &temporary, "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1"];
    // The one that runs Ansible; another of the name may be first in the path, and of no use.
    let python = "ansible_python_interpreter={{ ansible_playbook_python }}";
    line.extend(["ansible-playbook", "-i", "localhost,", "-e", python, &file]);
    line.extend(more);
    let output = world.run_within(Ns::Egress, &line, "", PLAY);
    let said = String::from_utf8_lossy(&output.stdout);
    let changed = said.rsplit_once("changed=").map(|(_, rest)| rest);
    let changed = changed.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
    assert!(output.status.success(), "{output:?}");
    changed.unwrap_or_else(|| panic!("no recap: {output:?}"))
}

#[test]
fn the_tasks_of_the_page_change_once_and_are_ok_then() {
    inside("the_tasks_of_the_page_change_once_and_are_ok_then", |world| {
        world.create_tunnel(Endpoint::A, Keepalive::EVERY_25_S);
        write_play(world);
        template(world, &EgressConfig::quick());

        // The config, the foretelling, the converge; then nothing.
        assert_eq!(play(world, &[]), 3);
        assert_eq!(world.status()["standing"], "locked");
        assert_eq!(play(world, &[]), 0);

        // Without a daemon, what was tampered with is brought back by the next play. `--check`
        // foretells it and brings nothing back.
        world.exec_ok(Ns::Egress, &["nft", "delete", "table", "inet", "vpn_egress"]);
        assert_eq!(play(world, &["--check"]), 1);
        assert_eq!(world.status()["standing"], "open");
        assert_eq!(play(world, &[]), 2);
        assert_eq!(world.status()["standing"], "locked");

        // The same with the daemon, which the command asks.
        let _actuator = world.start_actuator();
        let path_lines = vec!["allow: [10.0.0.0/24]".to_owned()];
        template(world, &EgressConfig { path_lines, ..EgressConfig::quick() });
        assert_eq!(play(world, &[]), 3);
        assert_eq!(play(world, &[]), 0);
    });
}
