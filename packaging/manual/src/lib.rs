//! Manual pages and shell completions, made from a program's flags: what a package installs. Each
//! program writes its own, so that a package is built once.

use std::fs;
use std::io;
use std::path::Path;

use clap::Command;
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// Administration of the system.
const SECTION: &str = "8";

/// Writes `man8/PROGRAM.8`, one page more for each command, and `completions/`; the pages' names.
pub fn write(program: Command, directory: &Path) -> io::Result<Vec<String>> {
    let pages = directory.join("man8");
    let completions = directory.join("completions");
    fs::create_dir_all(&pages)?;
    fs::create_dir_all(&completions)?;
    let mut program = program.disable_help_subcommand(true);
    program.build();
    let name = program.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Fish, Shell::Zsh] {
        generate_to(shell, &mut program, &name, &completions)?;
    }
    let mut written = Vec::new();
    page(program, name, &pages, &mut written)?;
    Ok(written)
}

fn page(command: Command, name: String, pages: &Path, written: &mut Vec<String>) -> io::Result<()> {
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        page(sub.clone(), format!("{name}-{}", sub.get_name()), pages, written)?;
    }
    let mut text = Vec::new();
    let man = Man::new(command).title(name.to_uppercase()).section(SECTION);
    man.source("vpn-egress").manual("vpn-egress").render(&mut text)?;
    fs::write(pages.join(format!("{name}.{SECTION}")), text)?;
    written.push(name);
    Ok(())
}
