//! The truth table, every row with quick cycles. `make truth` looks at it with the cycles as shipped,
//! and writes `docs/truth-table.md`.

use std::process::Command;

use lab::World;

#[test]
fn in_each_situation_what_is_seen_what_fires_and_what_is_done_are_as_told() {
    let output = Command::new(World::program("truth")).output().expect("the table is made");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("13 rows in "), "{said}");
}
