//! Tells by the first bytes what a file is that holds no text.

/// Returns what the bytes begin; none for text.
pub(super) fn describe(head: &[u8]) -> Option<&'static str> {
    const KINDS: [(&[u8], &str); 17] = [
        (b"\x89PNG", "PNG image"),
        (b"\xff\xd8\xff", "JPEG image"),
        (b"GIF8", "GIF image"),
        (b"%PDF-", "PDF document"),
        (b"PK\x03\x04", "ZIP archive"),
        (b"\x1f\x8b", "gzip archive"),
        (b"BZh", "bzip2 archive"),
        (b"\xfd7zXZ", "xz archive"),
        (b"\x28\xb5\x2f\xfd", "zstd archive"),
        (b"\x7fELF", "ELF executable"),
        (b"\xcf\xfa\xed\xfe", "Mach-O executable"),
        (b"\xca\xfe\xba\xbe", "Java class or Mach-O executable"),
        (b"\0asm", "WebAssembly module"),
        (b"SQLite format 3\0", "SQLite database"),
        (b"\xff\xfe", "UTF-16 text"),
        (b"\xfe\xff", "UTF-16 text"),
        (b"wOF2", "WOFF2 font"),
    ];
    // Zero bytes mark what is no text; of the kinds above only some have them near the start.
    let known = KINDS.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, kind)| *kind);
    let zeros = memchr::memchr(0, head).is_some();
    match known {
        Some(kind)
            if zeros || std::str::from_utf8(head).is_err_and(|e| e.error_len().is_some()) =>
        {
            Some(kind)
        }
        // The one kind that is mostly text and of no use as such.
        Some(kind @ "PDF document") => Some(kind),
        _ => zeros.then_some("binary file"),
    }
}
