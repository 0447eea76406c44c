//! `ringside demo` works, ends by itself and says whether all went well.

use std::process::Command;

#[test]
fn the_demo_serves_and_ends_cleanly() {
    let output = Command::new(env!("CARGO_BIN_EXE_ringside"))
        .args(["demo", "--seconds", "2"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    let (requests, rest) = said.lines().last().unwrap().split_once(" requests, ").unwrap();
    assert!(requests.parse::<u64>().unwrap() > 0, "{said}");
    assert!(rest.starts_with("0 failed"), "{said}");
    assert!(said.contains("curl -i http://127.0.0.1:"), "{said}");
}
