//! Programs that ours depend on, and that misbehave on request: found in `PATH` before the real ones.

use std::fs;
use std::path::PathBuf;

use crate::world::World;

/// How a program misbehaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misbehaviour {
    /// Never ends.
    Hang,
    /// Ends with an error.
    Fail,
    /// Is killed by SIGSEGV, as `nft` is by rules that a newer one wrote.
    Crash,
    /// Says that it is done, and did nothing.
    Lie,
}

impl Misbehaviour {
    pub const ALL: [Self; 4] = [Self::Hang, Self::Fail, Self::Crash, Self::Lie];

    fn word(self) -> &'static str {
        match self {
            Self::Hang => "hang",
            Self::Fail => "fail",
            Self::Crash => "crash",
            Self::Lie => "lie",
        }
    }
}

/// Does what the file `NAME.mode` says ("MODE FROM", by the number of the call), else the real thing.
/// Only what has one of the `needles` among its arguments is meant.
fn script(directory: &str, name: &str, needle: &str) -> String {
    format!(
        "#!/bin/sh\n\
         read -r mode from < {directory}/{name}.mode\n\
         real() {{ PATH=${{PATH#*:}} exec {name} \"$@\"; }}\n\
         case \" $* \" in *'{needle}'*) ;; *) real \"$@\" ;; esac\n\
         echo \"$*\" >> {directory}/{name}.calls\n\
         calls=$(wc -l < {directory}/{name}.calls)\n\
         [ -n \"$mode\" ] && [ \"$calls\" -ge \"$from\" ] || real \"$@\"\n\
         case $mode in\n\
           hang) exec sleep 600 ;;\n\
           fail) echo 'Error: it was told to fail' >&2; exit 1 ;;\n\
           crash) kill -SEGV $$ ;;\n\
           lie) exit 0 ;;\n\
         esac\n"
    )
}

impl World {
    /// From now on our programs find these in place of `nft` and of `ip link set`, which behave until
    /// they are told otherwise.
    pub fn shadow_programs(&mut self) {
        let directory = self.shadows();
        fs::create_dir_all(&directory).expect("a directory");
        for (name, needle) in [("nft", ""), ("ip", "link set")] {
            let text = script(&directory.display().to_string(), name, needle);
            self.write_file(&format!("shadow/{name}"), &text, 0o755);
            self.behaves(name);
        }
        let path = std::env::var("PATH").expect("a PATH");
        self.before_programs = vec!["env".into(), format!("PATH={}:{path}", directory.display())];
    }

    fn shadows(&self) -> PathBuf {
        self.scratch().join("shadow")
    }

    /// The program does what it should again.
    pub fn behaves(&self, name: &str) {
        self.write_mode(name, "");
    }

    /// From its `nth` call on, counted from now, the program misbehaves.
    pub fn misbehaves_from(&self, name: &str, how: Misbehaviour, nth: usize) {
        self.write_mode(name, &format!("{} {nth}", how.word()));
    }

    fn write_mode(&self, name: &str, mode: &str) {
        let file = |what: &str| self.shadows().join(format!("{name}.{what}"));
        // Replaced whole, the mode last: a call that is just made reads the old one or the new one.
        fs::write(file("calls"), "").expect("written");
        fs::write(file("new"), format!("{mode}\n")).expect("written");
        fs::rename(file("new"), file("mode")).expect("renamed");
    }

    /// How often it was called since it was last told how to behave.
    pub fn calls(&self, name: &str) -> usize {
        let file = self.shadows().join(format!("{name}.calls"));
        fs::read_to_string(file).unwrap_or_default().lines().count()
    }
}
