//! The gate, tried on this build: it must find a slower turn. The long proof, with counts of the same
//! code that it must let through, is `cargo xtask gate --prove 200`.

use std::process::Command;

fn gate(args: &[&str]) -> (bool, String) {
    let xtask = env!("CARGO_BIN_EXE_xtask");
    let out = Command::new(xtask).arg("gate").args(["--program", xtask]).args(args).output();
    let out = out.expect("xtask can be started");
    let errors = String::from_utf8_lossy(&out.stderr);
    (out.status.success(), String::from_utf8_lossy(&out.stdout).into_owned() + &errors)
}

#[test]
fn a_turn_one_percent_slower_is_found() {
    if !cfg!(target_arch = "x86_64") || Command::new("valgrind").arg("--version").output().is_err()
    {
        eprintln!("SKIPPED: there is no valgrind here to count instructions");
        return;
    }
    let (proved, said) = gate(&["--prove", "0", "--turns", "24"]);
    assert!(proved, "{said}");
    assert!(said.contains("1 % slower: found in 1 of 1"), "{said}");
}
