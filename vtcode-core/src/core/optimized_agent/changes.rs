//! What became of the files: single changes go in, one sum for each file comes out.

use std::collections::BTreeMap;

use crate::tools::tool::{ChangeKind, FileChange};

/// Sums the changes to each file; a file that was added and removed again is not among them.
pub fn sum_changes(changes: impl IntoIterator<Item = FileChange>) -> Vec<FileChange> {
    let mut sums: BTreeMap<String, FileChange> = BTreeMap::new();
    for change in changes {
        match sums.get_mut(&change.path) {
            None => {
                sums.insert(change.path.clone(), change);
            }
            Some(sum) if sum.kind == ChangeKind::Add && change.kind == ChangeKind::Delete => {
                sums.remove(&change.path);
            }
            Some(sum) => {
                sum.added = sum.added.saturating_add(change.added);
                sum.removed = sum.removed.saturating_add(change.removed);
                sum.kind = match (sum.kind, change.kind) {
                    (ChangeKind::Add, _) => ChangeKind::Add,
                    (ChangeKind::Delete, ChangeKind::Add) => ChangeKind::Update,
                    (_, kind) => kind,
                };
            }
        }
    }
    sums.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(path: &str, kind: ChangeKind, added: u32, removed: u32) -> FileChange {
        FileChange { path: path.to_owned(), kind, added, removed }
    }

    #[test]
    fn changes_to_a_file_add_up_to_what_became_of_it() {
        use ChangeKind::{Add, Delete, Update};
        let cases: [(&[ChangeKind], Option<ChangeKind>); 8] = [
            (&[Update, Update], Some(Update)),
            (&[Add, Update], Some(Add)),
            (&[Add, Delete], None),
            (&[Add, Delete, Add], Some(Add)),
            (&[Delete, Add], Some(Update)),
            (&[Update, Delete], Some(Delete)),
            (&[Delete, Add, Delete], Some(Delete)),
            (&[], None),
        ];
        for (kinds, expected) in cases {
            let sums = sum_changes(kinds.iter().map(|kind| change("a", *kind, 2, 1)));
            assert_eq!(sums.first().map(|sum| sum.kind), expected, "{kinds:?}");
        }
        let sums = sum_changes([
            change("b", Update, 1, 2),
            change("a", Add, 3, 0),
            change("b", Update, 10, 20),
        ]);
        assert_eq!(sums, [change("a", Add, 3, 0), change("b", Update, 11, 22)]);
    }

    #[test]
    fn counts_of_lines_that_do_not_fit_stay_at_the_most() {
        let many = || change("a", ChangeKind::Update, u32::MAX, u32::MAX);
        assert_eq!(sum_changes([many(), many()]), [many()]);
    }
}
