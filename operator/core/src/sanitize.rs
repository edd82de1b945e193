//! Bytes from a machine become short text that is safe to show: in a status, an event, a log line, a terminal.
//!
//! What comes out is one line of printable characters. Escape sequences are dropped whole, so that their parameters do
//! not stay behind as litter; control characters, invisible characters and those that turn the direction of writing
//! are dropped too; line breaks become ` | `. Knows nothing of where the bytes came from.

/// Stands between what were lines.
const LINE_BREAK: &str = " | ";
/// Shows that something was cut off.
const CUT: char = '…';

/// The beginning of `bytes` as one printable line of at most `max_chars` characters (not bytes), ending in `…` when
/// something was cut off.
///
/// ```
/// use binder_core::sanitize;
/// assert_eq!(sanitize(b"\x1b[31mE:\x1b[0m no\r\nspace\n", 80), "E: no | space");
/// ```
pub fn sanitize(bytes: &[u8], max_chars: usize) -> String {
    let line = one_line(&String::from_utf8_lossy(bytes));
    match line.char_indices().nth(max_chars) {
        None => line,
        Some(_) if max_chars == 0 => String::new(),
        Some(_) => {
            let mut kept: String = line.chars().take(max_chars - 1).collect();
            kept.truncate(kept.trim_end().len());
            kept.push(CUT);
            kept
        }
    }
}

/// The end of `bytes` as one printable line of at most `max_chars` characters, beginning with `…` when something was
/// cut off. For the output of a command, whose last lines say why it failed.
pub fn sanitize_tail(bytes: &[u8], max_chars: usize) -> String {
    let line = one_line(&String::from_utf8_lossy(bytes));
    let chars = line.chars().count();
    if chars <= max_chars {
        return line;
    }
    if max_chars == 0 {
        return String::new();
    }
    let kept: String = line.chars().skip(chars - (max_chars - 1)).collect();
    format!("{CUT}{}", kept.trim_start())
}

/// `text` without anything that could move a cursor, hide, or break a line.
fn one_line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut gap = Gap::Start;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\u{9b}' => skip_control_sequence(&mut chars),
            '\n' | '\r' | '\u{0b}' | '\u{0c}' | '\u{85}' | '\u{2028}' | '\u{2029}' => gap = gap.widen(Gap::Line),
            c if c.is_whitespace() => gap = gap.widen(Gap::Space),
            c if is_hidden(c) => {}
            c => {
                match gap {
                    Gap::None | Gap::Start => {}
                    Gap::Space => out.push(' '),
                    Gap::Line => out.push_str(LINE_BREAK),
                }
                gap = Gap::None;
                out.push(c);
            }
        }
    }
    out
}

/// What lies between the last character written and the next one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Gap {
    None,
    Space,
    Line,
    /// Nothing was written yet, so no gap is shown.
    Start,
}

impl Gap {
    fn widen(self, other: Gap) -> Gap {
        self.max(other)
    }
}

/// Characters that have no glyph of their own, or that change how their neighbours are shown (Unicode 16: category Cc,
/// the parts of Cf that are used for this, and the blank fillers).
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}'                      // soft hyphen
            | '\u{34f}'                   // combining grapheme joiner
            | '\u{61c}'                   // Arabic letter mark
            | '\u{115f}' | '\u{1160}' | '\u{3164}' | '\u{ffa0}' // Hangul fillers
            | '\u{17b4}' | '\u{17b5}'     // Khmer inherent vowels
            | '\u{180b}'..='\u{180f}'     // Mongolian variation selectors
            | '\u{200b}'..='\u{200f}'     // zero width, direction marks
            | '\u{202a}'..='\u{202e}'     // direction embeddings and overrides
            | '\u{2060}'..='\u{206f}'     // word joiner, direction isolates
            | '\u{2800}'                  // blank Braille pattern
            | '\u{fe00}'..='\u{fe0f}'     // variation selectors
            | '\u{feff}'                  // byte order mark
            | '\u{fff0}'..='\u{fffb}'     // interlinear annotations
            | '\u{e0000}'..='\u{e0fff}') // tags, further variation selectors
}

type Chars<'a> = std::iter::Peekable<std::str::Chars<'a>>;

/// What follows an ESC: a control sequence, a string that ends in BEL or ESC `\`, or one more character.
fn skip_escape(chars: &mut Chars<'_>) {
    match chars.peek().copied() {
        Some('[') => {
            chars.next();
            skip_control_sequence(chars);
        }
        Some(']' | 'P' | 'X' | '^' | '_') => skip_string(chars),
        Some(c) if c.is_ascii_graphic() => {
            chars.next();
        }
        _ => {}
    }
}

/// Parameters and the final byte of a control sequence (ECMA-48, 5.4). Stops before anything that cannot be part of
/// one, so that a lone introducer costs nothing of the text.
fn skip_control_sequence(chars: &mut Chars<'_>) {
    while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
    chars.next_if(|c| matches!(c, '@'..='~'));
}

/// A control string, such as the title of a window, up to its terminator; an unterminated one only up to the line's
/// end, so that it cannot swallow the rest of a text.
fn skip_string(chars: &mut Chars<'_>) {
    while let Some(c) = chars.next_if(|c| !matches!(c, '\n' | '\r')) {
        if c == '\u{07}' || c == '\u{9c}' {
            return;
        }
        if c == '\u{1b}' {
            chars.next_if_eq(&'\\');
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn plain_text_stays() {
        assert_eq!(sanitize("df: /mnt: Größe unbekannt".as_bytes(), 80), "df: /mnt: Größe unbekannt");
    }

    #[test]
    fn lines_become_one() {
        assert_eq!(sanitize(b"\n\na\r\n\r\nb\tc \n", 80), "a | b c");
    }

    #[test]
    fn escape_sequences_leave_nothing_behind() {
        let noise = "\u{1b}[1;31mred\u{1b}[0m \u{1b}]0;title\u{07}x \u{1b}]8;;http://e\u{1b}\\link \u{9b}2Jz";
        assert_eq!(sanitize(noise.as_bytes(), 80), "red x link z");
    }

    #[test]
    fn an_unterminated_string_ends_with_its_line() {
        assert_eq!(sanitize(b"\x1b]0;evil\nthe rest", 80), "the rest");
    }

    #[test]
    fn direction_cannot_be_turned() {
        assert_eq!(sanitize("a\u{202e}b\u{2066}c\u{200b}d".as_bytes(), 80), "abcd");
    }

    #[test]
    fn what_is_not_utf8_is_marked() {
        assert_eq!(sanitize(b"a\xff\xfeb", 80), "a\u{fffd}\u{fffd}b");
    }

    #[test]
    fn cuts_are_shown_at_either_end() {
        assert_eq!(sanitize(b"abcdef", 4), "abc…");
        assert_eq!(sanitize_tail(b"abcdef", 4), "…def");
        assert_eq!(sanitize(b"abcd", 4), "abcd");
        assert_eq!(sanitize_tail(b"abcd", 4), "abcd");
        assert_eq!(sanitize(b"abcd", 0), "");
        assert_eq!(sanitize_tail(b"abcd", 0), "");
    }

    fn noisy() -> impl Strategy<Value = Vec<u8>> {
        let bits = prop_oneof![
            any::<Vec<u8>>(),
            Just(b"\x1b[".to_vec()),
            Just(b"\x1b]".to_vec()),
            Just(b"\r\n".to_vec()),
            Just("\u{202e}\u{9b}\u{85}".as_bytes().to_vec()),
            "[ -~]{0,20}".prop_map(String::into_bytes),
        ];
        proptest::collection::vec(bits, 0..20).prop_map(|parts| parts.concat())
    }

    proptest! {
        #[test]
        fn always_one_printable_bounded_line(bytes in noisy(), max in 0usize..200) {
            for line in [sanitize(&bytes, max), sanitize_tail(&bytes, max)] {
                prop_assert!(line.chars().count() <= max);
                prop_assert!(!line.chars().any(is_hidden), "{line:?}");
                prop_assert_eq!(line.trim(), line.as_str());
            }
        }

        #[test]
        fn doing_it_twice_changes_nothing(bytes in noisy(), max in 0usize..200) {
            let once = sanitize(&bytes, max);
            prop_assert_eq!(sanitize(once.as_bytes(), max), once);
        }

        #[test]
        fn printable_ascii_is_kept(text in "[!-~]{1,5}( [!-~]{1,5}){0,5}") {
            prop_assert_eq!(sanitize(text.as_bytes(), 100), text);
        }
    }
}
