//! Questions to whoever sits at the terminal: a command that needs permission comes in, an answer
//! goes out. What the model wrote is shown without anything that could control the terminal or
//! pass for a line of ours. Asks nobody but a terminal on stdin, with stderr to show it on.

use std::fs::File;
use std::io::{self, IsTerminal as _, Write as _};
use std::os::fd::AsFd as _;
use std::sync::Arc;

use rustix::termios::{QueueSelector, tcflush};
use tokio::net::unix::pipe::Receiver;
use vtcode_core::config::safety::Approval;
use vtcode_core::core::optimized_agent::Confirm;
use vtcode_core::safety::permissions::{Answer, Approver, Question};

use crate::terminal::clean;

/// The longest answer that is read; a longer one is no answer.
const ANSWER_BYTES: usize = 256;

/// Returns who answers on this terminal; none when nobody is asked, or nobody is there.
pub(crate) fn on_terminal(approval: Approval) -> Option<Approver> {
    if approval == Approval::Never || !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return None;
    }
    Some(Arc::new(|question| Box::pin(async move { ask(&question).await.unwrap_or(Answer::No) })))
}

/// Returns who says on this terminal whether to go on; none where nobody is asked, or nobody is there.
pub(crate) fn confirm_on_terminal(approval: Approval) -> Option<Confirm> {
    on_terminal(approval)?;
    Some(Arc::new(|why| Box::pin(async move { confirm(&why).await.unwrap_or(false) })))
}

async fn confirm(why: &str) -> io::Result<bool> {
    tcflush(io::stdin(), QueueSelector::IFlush)?;
    loop {
        let _ = write!(io::stderr(), "vtcode: {}; go on? y, n: ", clean(why));
        if let Some(answer) = answer(&line().await?, false) {
            return Ok(answer != Answer::No);
        }
    }
}

/// Shows a question and reads its answer; the end of the input, or what cannot be read, is no.
async fn ask(question: &Question) -> io::Result<Answer> {
    // What was typed before the question was there is no answer to it.
    tcflush(io::stdin(), QueueSelector::IFlush)?;
    loop {
        let _ = write!(io::stderr(), "{}", words(question));
        if let Some(answer) = answer(&line().await?, question.command.is_some()) {
            return Ok(answer);
        }
    }
}

fn words(question: &Question) -> String {
    let what = match &question.command {
        Some(command) => command.as_str(),
        None => question.tool.as_str(),
    };
    // A line of the command must not look like one of ours.
    let what = clean(what).replace('\n', "\n  | ");
    let always = match &question.command {
        Some(_) => ", a = always this very command in this run",
        None => "",
    };
    let (class, reason) = (question.class, clean(&question.reason));
    format!("vtcode: may this run? ({class}: {reason})\n  | {what}\n  y = once{always}, n = no: ")
}

/// Returns what an answer means; none: ask again.
fn answer(line: &str, may_be_always: bool) -> Option<Answer> {
    match line.trim().to_ascii_lowercase().as_str() {
        "y" | "yes" => Some(Answer::Once),
        "a" | "always" if may_be_always => Some(Answer::Always),
        "n" | "no" | "" => Some(Answer::No),
        _ => None,
    }
}

/// Reads a line from the terminal without holding up the signals that may end the wait, and
/// without a thread that would wait on when nobody wants the answer any more.
async fn line() -> io::Result<String> {
    let stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    // Whatever can be polled can be read like a pipe.
    let stdin = Receiver::from_file_unchecked(stdin)?;
    let mut line = [0; ANSWER_BYTES];
    loop {
        stdin.readable().await?;
        // A terminal gives a whole line at a time.
        match stdin.try_read(&mut line) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => return Ok(String::from_utf8_lossy(&line[..read]).into_owned()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vtcode_core::safety::policy::Class;

    fn question(command: &str) -> Question {
        Question {
            tool: "run_command".to_owned(),
            command: Some(command.to_owned()),
            class: Class::Unproven,
            rule: "unproven".to_owned(),
            reason: "why".to_owned(),
        }
    }

    #[test]
    fn a_command_cannot_draw_over_the_question() {
        let shown = words(&question("ls\u{1b}[2K\rx\nvtcode: may this run? (none)"));
        assert!(!shown.contains(['\u{1b}', '\r']), "{shown:?}");
        let ours = shown.lines().filter(|line| line.starts_with("vtcode:")).count();
        assert_eq!(ours, 1, "{shown}");
    }

    #[test]
    fn only_a_plain_yes_is_a_yes() {
        let asked = |line| answer(line, false);
        assert_eq!(asked("y\n"), Some(Answer::Once));
        assert_eq!(asked("\n"), Some(Answer::No));
        assert_eq!(asked("a\n"), None);
        assert_eq!(answer("a\n", true), Some(Answer::Always));
        assert_eq!(asked("ya rly\n"), None);
    }
}
