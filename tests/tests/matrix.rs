//! The leak matrix, every row and every kind in short: S1. `make matrix` measures it at length, and
//! writes `docs/leak-matrix.md`.

use std::process::Command;

use lab::World;

#[test]
fn s1_nothing_leaks_in_any_cell_of_the_matrix_and_every_control_sees_it() {
    // Few worlds at once: other tests have theirs at the same time.
    let mut command = Command::new(World::program("matrix"));
    let output = command.args(["--jobs", "2"]).output().expect("the matrix runs");
    let said = String::from_utf8_lossy(&output.stdout);
    let wrong = String::from_utf8_lossy(&output.stderr);
    print!("{said}");
    assert!(output.status.success(), "{said}{wrong}");
    assert!(said.contains("ours: ") && said.contains("none: "), "{said}");
}
