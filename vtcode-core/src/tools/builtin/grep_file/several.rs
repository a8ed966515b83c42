//! The results of several patterns of one call, in one text: each under its pattern, and none at
//! the expense of another. What one does not need of its share is the others'.

use std::fmt::Write as _;

use crate::tools::builtin::lines::{cut, plural};
use crate::tools::tool::{Detail, ToolError, ToolOutput};

/// What is kept of a share for its pattern and for the line that says what is left out.
const FRAME_BYTES: usize = 120;

/// Joins what each pattern gave into the result of one call. One pattern alone stays as it is.
pub(super) fn grouped(
    mut found: Vec<(&str, Result<ToolOutput, ToolError>)>,
    bytes: usize,
) -> Result<ToolOutput, ToolError> {
    if found.len() == 1 {
        return found.remove(0).1;
    }
    if found.iter().all(|(_, found)| found.is_err()) {
        return found.remove(0).1;
    }
    let texts: Vec<String> = found
        .iter()
        .map(|(_, found)| match found {
            Ok(output) => output.text.clone(),
            Err(error) => error.to_string(),
        })
        .collect();
    let frames = found.len() * FRAME_BYTES;
    let lengths: Vec<usize> = texts.iter().map(String::len).collect();
    let shares = shares(&lengths, bytes.saturating_sub(frames));
    let (mut text, mut lines) = (String::new(), Vec::new());
    for (((pattern, found), whole), share) in found.iter().zip(&texts).zip(shares) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# {}", cut(pattern));
        text.push_str(shortened(whole, share).trim_end());
        text.push('\n');
        lines.push(match found {
            Ok(ToolOutput { detail: Detail::Summary { line }, .. }) => line.clone(),
            _ => "failed".to_owned(),
        });
    }
    // All were read in the same walk; without the evidence of one there is none for the whole.
    let mut evidence: Vec<_> =
        found.into_iter().map(|(_, found)| found.ok().and_then(|output| output.evidence)).collect();
    let evidence = if evidence.iter().all(Option::is_some) {
        // The longer walk, which is that of a pattern that found nothing at first, comes last.
        evidence.pop().flatten()
    } else {
        None
    };
    let detail = Detail::Summary { line: lines.join("; ") };
    Ok(ToolOutput { text, is_error: false, detail, evidence })
}

/// Returns how much of so many bytes each of these lengths gets: as much as it needs, and where
/// that is too much, the same for all that need more.
fn shares(lengths: &[usize], bytes: usize) -> Vec<usize> {
    let mut shares = vec![0; lengths.len()];
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    order.sort_by_key(|at| lengths[*at]);
    let mut left = bytes;
    for (done, at) in order.iter().enumerate() {
        let share = (left / (lengths.len() - done)).min(lengths[*at]);
        shares[*at] = share;
        left -= share;
    }
    shares
}

/// Cuts a result to so many bytes, by whole lines, with its last line, which counts the matches.
fn shortened(text: &str, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let body = text.trim_end();
    let (body, last) = body.rsplit_once('\n').unwrap_or(("", body));
    let mut kept = 0;
    let mut left = bytes.saturating_sub(last.len() + 1);
    let mut count = 0;
    for line in body.split_inclusive('\n') {
        if line.len() > left {
            break;
        }
        left -= line.len();
        kept += line.len();
        count += 1;
    }
    let more = body.lines().count() - count;
    format!(
        "{}… {}; search for this pattern alone\n{last}",
        &body[..kept],
        plural(more, "more line")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_does_not_need_is_the_others() {
        assert_eq!(shares(&[10, 10], 100), [10, 10]);
        assert_eq!(shares(&[500, 10, 500], 110), [50, 10, 50]);
        assert_eq!(shares(&[500, 500], 101), [50, 51]);
        assert_eq!(shares(&[], 100), Vec::<usize>::new());
    }

    #[test]
    fn a_result_is_cut_by_lines_and_keeps_its_count() {
        let text = "a.rs\n1:one\n2:two\n3:three\n(3 matches in 1 file)\n";
        assert_eq!(shortened(text, 1000), text);
        let cut = shortened(text, 36);
        assert_eq!(
            cut,
            "a.rs\n1:one\n… 2 more lines; search for this pattern alone\n(3 matches in 1 file)"
        );
    }
}
