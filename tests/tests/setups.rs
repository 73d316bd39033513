//! The third axis of the leak matrix in short: what surrounds the host under test. `make matrix`
//! measures it at length. S1, S2.

use std::process::Command;

use lab::World;

#[test]
#[ignore = "fails until the verdict is taken at the final device"]
fn s1_nothing_leaks_in_any_set_up_and_every_control_sees_it() {
    // Few worlds at once: other tests have theirs at the same time.
    let mut command = Command::new(World::program("setups"));
    let output = command.args(["--quick", "--jobs", "3"]).output().expect("the set-ups run");
    let said = String::from_utf8_lossy(&output.stdout);
    print!("{said}");
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("seen outside") && !said.contains(" 0 packets sent"), "{said}");
}
