use std::ops::RangeInclusive;

/// Merges ranges that overlap or touch; the result is sorted and as short as possible.
pub fn merge(ranges: &[RangeInclusive<u32>]) -> Vec<RangeInclusive<u32>> {
    let mut merged: Vec<RangeInclusive<u32>> = Vec::new();
    for range in ranges {
        match merged.last_mut() {
            Some(last) if range.start() <= last.end() => {
                let end = *last.end().max(range.end());
                *last = *last.start()..=end;
            }
            _ => merged.push(range.clone()),
        }
    }
    merged
}

/// Writes ranges as people type them: `1-4, 7`.
pub fn show(ranges: &[RangeInclusive<u32>]) -> String {
    let show_one = |range: &RangeInclusive<u32>| {
        if range.start() == range.end() {
            range.start().to_string()
        } else {
            format!("{}-{}", range.start(), range.end())
        }
    };
    ranges.iter().map(show_one).collect::<Vec<_>>().join(", ")
}
