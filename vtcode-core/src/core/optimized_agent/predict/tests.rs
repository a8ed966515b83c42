use super::worth::{Bounds, Standing, Worth, part};
use super::*;
use crate::config::limits::Price;

fn at(path: &str, line: u32) -> Mention<'_> {
    Mention { path, line: Some(line) }
}

fn paths(predictor: &Predictor) -> Vec<&str> {
    predictor.guesses(8).into_iter().map(|guess| guess.path).collect()
}

/// A predictor after a search that named three files.
fn searched() -> Predictor {
    let mut predictor = Predictor::default();
    predictor.prompt([]);
    predictor.step();
    predictor.told(
        Source::Search,
        false,
        [at("src/merge.rs", 40), at("src/ranges.rs", 7), at("docs/merge.md", 2)],
    );
    predictor
}

#[test]
fn what_the_latest_search_named_first_is_the_likeliest() {
    let predictor = searched();
    let guesses = predictor.guesses(8);
    assert_eq!(paths(&predictor), ["src/merge.rs", "src/ranges.rs", "docs/merge.md"]);
    assert_eq!((guesses[0].line, guesses[0].read), (Some(40), None));
    assert!(guesses[0].probability > 0.05 && guesses[0].probability < 0.95, "{guesses:?}");
    assert_eq!(predictor.guesses(2).len(), 2);
}

#[test]
fn what_was_named_long_ago_is_less_likely() {
    let mut predictor = searched();
    let before = predictor.guesses(1)[0].probability;
    for _ in 0..20 {
        predictor.step();
        predictor.told(Source::Command, false, []);
    }
    assert!(predictor.guesses(1)[0].probability < before / 2.0);
}

#[test]
fn an_attached_file_is_not_guessed_again_until_it_changes() {
    let mut predictor = searched();
    predictor.attached("src/merge.rs", Span::Whole);
    assert_eq!(predictor.holds("./src/merge.rs"), Some(Span::Whole));
    assert!(!paths(&predictor).contains(&"src/merge.rs"));
    predictor.edited("src/merge.rs");
    assert_eq!(predictor.holds("src/merge.rs"), None);
    assert!(paths(&predictor).contains(&"src/merge.rs"));
}

#[test]
fn a_part_of_a_path_means_the_path_that_is_known() {
    let mut predictor = searched();
    predictor.step();
    predictor.words([at("ranges.rs", 90)]);
    let guesses = predictor.guesses(8);
    assert_eq!(guesses.len(), 3);
    let ranges = guesses.iter().find(|guess| guess.path == "src/ranges.rs").unwrap();
    assert_eq!(ranges.line, Some(90));
    predictor.words([at("anges.rs", 1)]);
    assert_eq!(predictor.guesses(8).len(), 4, "a piece of a name is another name");
}

#[test]
fn what_cannot_be_a_file_of_the_workspace_is_no_candidate() {
    let mut predictor = Predictor::default();
    let outside =
        ["/etc/passwd", "~/.ssh/id", "../other", "a/../../b", "http://x/y", "src/", "*.rs"];
    predictor.told(Source::Search, false, outside.map(|path| at(path, 1)));
    predictor.told(Source::Git, false, [at("a/src/x.rs", 1), at("b/src/x.rs", 1)]);
    assert_eq!(paths(&predictor), ["src/x.rs"]);
}

#[test]
fn a_session_of_any_length_is_remembered_within_bounds() {
    let mut predictor = Predictor::default();
    for n in 0..2 * REMEMBERED {
        predictor.step();
        // Several at once, so that some are new and some known when the oldest are forgotten.
        let paths: Vec<String> = (n..n + 5).map(|n| format!("src/file{n}.rs")).collect();
        predictor.told(Source::Search, false, paths.iter().map(|path| at(path, 1)));
        predictor.read(&paths[0], Span::Whole);
        predictor.edited(&paths[1]);
        predictor.attached(&paths[2], Span::Whole);
    }
    assert!(predictor.files.len() <= REMEMBERED);
    assert!(predictor.active.len() <= ACTIVE);
    let latest = format!("src/file{}.rs", 2 * REMEMBERED - 1);
    assert!(paths(&predictor).contains(&latest.as_str()), "the latest is still guessed");
}

#[test]
fn the_table_is_small_and_whole() {
    assert!(size_of::<weights::Weights>() < 1000, "a few dozen numbers");
    assert!(weights::TABLE.iter().all(|(_, weight, what)| weight.is_finite() && !what.is_empty()));
}

#[test]
fn a_guess_is_worth_its_tokens_from_its_break_even_on() {
    let standing = Standing {
        price: Some(Price { input: 3.0, cached: 0.3, output: 15.0 }),
        context_tokens: 40_000,
        output_tokens: 100.0,
        step_seconds: 6.0,
        second_tokens: 0.0,
        requests_to_come: 20.0,
    };
    let worth = Worth::of(&standing);
    assert_eq!((worth.step.round(), worth.token.round()), (4560.0, 3.0));
    let even = worth.break_even(1000) as f32;
    assert!((0.39..0.40).contains(&even), "{even}");
    assert!(worth.gain(even + 0.01, 1000) > 0.0 && worth.gain(even - 0.01, 1000) < 0.0);
    let hurried = Worth::of(&Standing { second_tokens: 1000.0, ..standing });
    assert!(hurried.break_even(1000) < worth.break_even(1000));
    let nothing = Worth { step: 0.0, token: 0.0 };
    assert!(nothing.gain(1.0, 10) <= 0.0 && nothing.break_even(10) >= 1.0);
}

#[test]
fn a_small_file_is_shown_whole_and_of_a_large_one_what_was_named() {
    let bounds = Bounds::of(1000);
    let guess = |line, read| Guess { path: "a", line, read, shown_now: false, probability: 0.5 };
    assert_eq!(part(&guess(Some(9), None), 3999, &bounds), (Span::Whole, 1000));
    let lines = |guess| match part(&guess, 400_000, &bounds) {
        (Span::Lines { first, last }, _) => (first, last),
        (Span::Whole, _) => panic!("too large to be shown whole"),
    };
    assert_eq!(lines(guess(Some(100), None)), (70, 189));
    assert_eq!(lines(guess(Some(1), None)), (1, 120));
    assert_eq!(lines(guess(None, Some(Span::Lines { first: 1, last: 60 }))), (61, 180));
    assert_eq!(lines(guess(None, None)), (1, 120));
}
