//! The parser of bash: a command line comes in, its tree goes out, or nothing when that would take
//! too long.
//! The tree is raw: it says nothing of whether the line is sound. Keeps one parser a thread.

use std::cell::RefCell;
use std::ops::ControlFlow;

use tree_sitter::{ParseOptions, Parser, Tree};

/// Longer lines are not read at all: the parser's time grows with the square of the length of
/// some.
const MAX_BYTES: usize = 16 * 1024;

/// How often the parser may report progress, which it does every hundred of its steps, before it
/// is stopped: counted in steps, so that the same line gets the same verdict on a busy machine.
const MAX_REPORTS: usize = 250;

/// Parses a command line; none when it is too long or too deep to be read in reasonable time, or
/// holds what the parser cannot be given.
pub(super) fn parse(text: &str) -> Option<Tree> {
    thread_local! {
        static PARSER: RefCell<Parser> = RefCell::new({
            let mut parser = Parser::new();
            parser
                .set_language(&tree_sitter_bash::LANGUAGE.into())
                .expect("both crates are pinned to one grammar version");
            parser
        });
    }
    if text.len() > MAX_BYTES || is_misread(text) {
        return None;
    }
    let mut reports = 0;
    let mut progress = |_: &tree_sitter::ParseState| {
        reports += 1;
        if reports > MAX_REPORTS { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    let bytes = text.as_bytes();
    PARSER.with_borrow_mut(|parser| {
        // Else a parse that was given up would go on here.
        parser.reset();
        parser.parse_with_options(
            &mut |at, _| bytes.get(at..).unwrap_or_default(),
            None,
            Some(ParseOptions::new().progress_callback(&mut progress)),
        )
    })
}

/// Returns whether a letter beyond U+00FF stands where a range such as `{1..9}` has its numbers. The
/// grammar's scanner asks the C library whether it is a digit, in a table that ends before it, and
/// would read what lies behind the table, or end the process.
fn is_misread(text: &str) -> bool {
    text.split('{').skip(1).any(|rest| {
        let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        rest.starts_with(|c| c > '\u{ff}')
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_with_letters_of_the_world_is_not_read_and_ends_no_process() {
        for text in ["echo {中", "echo {1中..2}", "echo {1..🦀}", "echo {Ā}", "a{{\u{10ffff}"]
        {
            assert!(parse(text).is_none(), "{text}");
        }
        for text in ["echo {a,中}", "echo 中{1..2}", "echo {é}", "echo '中' {", "echo {1..2}中"]
        {
            assert!(parse(text).is_some(), "{text}");
        }
    }
}
