use pages::{merge, parse, show};

fn shortest(typed: &str) -> String {
    show(&merge(&parse(typed).expect("pages")))
}

#[test]
fn what_was_typed_becomes_the_shortest_list() {
    assert_eq!(shortest("3"), "3");
    assert_eq!(shortest("1-5, 3-8"), "1-8");
    assert_eq!(shortest("7-9, 1-3"), "1-3, 7-9", "in the order of the pages");
    assert_eq!(shortest("1-3, 4, 6"), "1-4, 6", "pages that touch become one range");
}

#[test]
fn what_is_no_page_is_refused() {
    assert_eq!(parse("1-3, x"), None);
    assert_eq!(parse("9-7"), None);
}
