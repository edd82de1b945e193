//! Text that several rooms shape in the same way. Knows nothing but text and time.

use jiff::Timestamp;

/// At most so many characters, with an ellipsis where something is missing.
pub fn shorten(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// A time of day as people are told it: `14:02:10Z`.
pub fn time_of_day(at: Timestamp) -> String {
    at.strftime("%H:%M:%SZ").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_too_long_ends_with_an_ellipsis_within_its_limit() {
        for (text, most, short) in
            [("abc", 3, "abc"), ("abcd", 3, "ab…"), ("ünï 🐻!", 4, "ünï…"), ("ab", 0, "…"), ("", 0, "")]
        {
            assert_eq!(shorten(text, most), short);
        }
    }

    #[test]
    fn a_time_of_day_is_in_utc() {
        assert_eq!(time_of_day(Timestamp::UNIX_EPOCH), "00:00:00Z");
    }
}
