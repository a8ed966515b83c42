//! Words to valgrind, if the process runs under it: forget what was counted, write it down now.
//! Anywhere else they do nothing. The sequences are those of `valgrind.h` and `callgrind.h`.

#![expect(unsafe_code, reason = "valgrind is spoken to in instructions that do nothing elsewhere")]

use std::ffi::CStr;

/// `VG_USERREQ_TOOL_BASE('C', 'T')`.
#[cfg(target_arch = "x86_64")]
const CALLGRIND: u64 = 0x4354_0000;

/// Forgets what callgrind has counted so far.
pub(super) fn zero() {
    request(1, 0);
}

/// Has callgrind write down what it has counted, under this name, and begin anew.
pub(super) fn dump(name: &CStr) {
    request(3, name.as_ptr() as u64);
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
#[expect(clippy::inline_always, reason = "a call would be counted, too")]
fn request(code: u64, argument: u64) {
    let words: [u64; 6] = [CALLGRIND + code, argument, 0, 0, 0, 0];
    // SAFETY: outside of valgrind the four rotations of rdi add up to 128 bits and the exchange is
    // of a register with itself, so nothing changes but the flags. Under valgrind the request
    // reads the six words behind rax, and, for a dump, the string that `argument` points to, which
    // its caller holds; it answers in rdx.
    unsafe {
        std::arch::asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            in("rax") words.as_ptr(),
            inout("rdx") 0u64 => _,
        );
    }
}

/// Nobody tried the sequence of another processor yet; instructions are not counted there.
#[cfg(not(target_arch = "x86_64"))]
fn request(_code: u64, _argument: u64) {}
