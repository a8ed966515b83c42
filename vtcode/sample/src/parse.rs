use std::ops::RangeInclusive;

/// Reads `7-9, 1-3, 4` as ranges, in the order typed; none when a piece is not a page or a range.
pub fn parse(text: &str) -> Option<Vec<RangeInclusive<u32>>> {
    text.split(',')
        .map(|piece| {
            let piece = piece.trim();
            let (start, end) = piece.split_once('-').unwrap_or((piece, piece));
            let (start, end) = (start.trim().parse().ok()?, end.trim().parse().ok()?);
            (start <= end).then_some(start..=end)
        })
        .collect()
}
