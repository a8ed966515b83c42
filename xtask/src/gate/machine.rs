//! The class of a machine: what the number of instructions depends on besides the code. Two
//! machines of one class count the same, whatever their speed.

use std::fmt;
use std::process::Command;

use anyhow::Context as _;

/// Processor, compiler, valgrind and C library.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Class(pub(super) String);

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Class {
    /// Returns the class of this machine; none when it has no valgrind, or none that understands
    /// our marks.
    pub(super) fn of_this_machine() -> anyhow::Result<Option<Self>> {
        if cfg!(not(target_arch = "x86_64")) {
            return Ok(None);
        }
        let Ok(valgrind) = first_line("valgrind", &["--version"]) else { return Ok(None) };
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        // `rustc 1.95.0 (59807616e 2026-04-14)`
        let rustc = first_line(&rustc, &["--version"]).context("cannot ask rustc")?;
        let rustc = rustc.split(" (").next().unwrap_or_default().to_owned();
        let libc =
            first_line("getconf", &["GNU_LIBC_VERSION"]).unwrap_or_else(|_| "no glibc".into());
        Ok(Some(Self([processor(), &rustc, &valgrind, &libc].join(", "))))
    }
}

/// The C library and memchr choose their loops by these.
fn processor() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    if std::arch::is_x86_feature_detected!("avx2") {
        return "x86_64 with avx2";
    }
    std::env::consts::ARCH
}

fn first_line(program: &str, args: &[&str]) -> anyhow::Result<String> {
    let out = Command::new(program).args(args).output()?;
    anyhow::ensure!(out.status.success(), "`{program}` ended with {}", out.status);
    let text = String::from_utf8_lossy(&out.stdout);
    Ok(text.lines().next().unwrap_or_default().trim().to_owned())
}
