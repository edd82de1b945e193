//! The frames that a look's output comes in, and the reader that takes them apart.
//!
//! A look prints, with `N` the look's nonce (128 random bits as hex):
//!
//! ```text
//! N begin 0          section 0 starts
//! aGVsbG8K           its output, as base64
//! N exit 3           its script ended with status 3
//! N end 0 0          what ran the script has ended
//! N begin 1
//! ...
//! N done             nothing more will come
//! ```
//!
//! Nothing that a section prints can pass for a frame: it is base64 by then, and a frame has spaces. Nothing that comes
//! from elsewhere, such as a `.bashrc` that talks, can either: it does not know the nonce, which no process list shows.
//! Each section that ended is whole, whatever happens after it.
//!
//! Pure: bytes in, sections out. Never panics, and holds no more than the sections' limits allow.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::probe::SectionOutput;

/// A random word that begins each frame of one look.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Nonce(String);

impl Nonce {
    /// 128 bits from the operating system's generator (by way of the thread's).
    pub(super) fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

/// The longest line that can be part of a frame or of base64 as `base64` prints it (76 columns). Longer ones are noise.
const LONGEST_LINE: usize = 512;

/// Bytes outside of any section that are put up with: what a login shell prints, and the empty lines between frames.
pub(super) const NOISE_ALLOWED: usize = 256 * 1024;

/// Takes a look's output apart as it comes.
#[derive(Debug)]
pub(super) struct Frames {
    nonce: Nonce,
    sections: Vec<Frame>,
    line: Vec<u8>,
    /// The line is longer than any of ours, and its rest is skipped.
    overlong: bool,
    open: Option<usize>,
    noise: usize,
    begun: bool,
    done: bool,
}

/// What there is of one section.
#[derive(Debug)]
struct Frame {
    max_bytes: usize,
    encoded: Vec<u8>,
    spoilt: bool,
    exit: Option<i32>,
    /// The status of what ran the script, once that has ended.
    ended: Option<i32>,
}

/// What [`Frames::push`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// The look goes on.
    More,
    /// The look is complete.
    Done,
    /// More came than any honest look sends.
    Flooded,
}

impl Frames {
    /// For sections whose output may be so many bytes each.
    pub(super) fn new(nonce: Nonce, max_bytes: impl IntoIterator<Item = usize>) -> Self {
        let sections = max_bytes
            .into_iter()
            .map(|max_bytes| Frame { max_bytes, encoded: Vec::new(), spoilt: false, exit: None, ended: None })
            .collect();
        Self { nonce, sections, line: Vec::new(), overlong: false, open: None, noise: 0, begun: false, done: false }
    }

    /// Whether any frame came, that is, whether the machine has begun to answer.
    pub(super) fn begun(&self) -> bool {
        self.begun
    }

    /// Takes more of what the machine printed.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Progress {
        for byte in bytes {
            if self.done {
                return Progress::Done;
            }
            if *byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                if !std::mem::take(&mut self.overlong) {
                    self.take_line(&line);
                }
                self.line = line;
                self.line.clear();
                self.noise += 1;
            } else if self.line.len() < LONGEST_LINE {
                self.line.push(*byte);
            } else {
                if !self.overlong {
                    self.overlong = true;
                    self.spoil();
                }
                self.noise += 1;
            }
            if self.noise > NOISE_ALLOWED {
                return Progress::Flooded;
            }
        }
        if self.done { Progress::Done } else { Progress::More }
    }

    fn take_line(&mut self, line: &[u8]) {
        if line.is_empty() {
            return;
        }
        if let Some(frame) = self.frame(line) {
            self.begun = true;
            self.take_frame(frame);
            return;
        }
        match self.open.and_then(|index| self.sections.get_mut(index)) {
            // Each line of base64 leaves at most 4 / 3 of the section's limit, and a line of slack, in memory.
            Some(section) if line.iter().all(|byte| is_base64(*byte)) => {
                if section.encoded.len() <= section.max_bytes.div_ceil(3) * 4 + LONGEST_LINE {
                    section.encoded.extend_from_slice(line);
                    // A newline of the encoder's is no noise.
                    self.noise = self.noise.saturating_sub(1);
                } else {
                    self.noise += line.len();
                }
            }
            Some(section) => {
                section.spoilt = true;
                self.noise += line.len();
            }
            None => self.noise += line.len(),
        }
    }

    /// The words after the nonce, if the line is a frame.
    fn frame(&self, line: &[u8]) -> Option<FrameLine> {
        let line = std::str::from_utf8(line).ok()?;
        let words: Vec<&str> = line.strip_prefix(self.nonce.as_str())?.strip_prefix(' ')?.split(' ').collect();
        match words.as_slice() {
            ["begin", index] => Some(FrameLine::Begin(index.parse().ok()?)),
            ["exit", status] => Some(FrameLine::Exit(status.parse().ok()?)),
            ["end", index, status] => Some(FrameLine::End(index.parse().ok()?, status.parse().ok()?)),
            ["done"] => Some(FrameLine::Done),
            _ => None,
        }
    }

    fn take_frame(&mut self, frame: FrameLine) {
        match frame {
            FrameLine::Begin(index) => self.open = (index < self.sections.len()).then_some(index),
            FrameLine::Exit(status) => {
                if let Some(section) = self.open.and_then(|index| self.sections.get_mut(index)) {
                    section.exit = Some(status);
                }
            }
            FrameLine::End(index, status) => {
                if self.open == Some(index)
                    && let Some(section) = self.sections.get_mut(index)
                {
                    section.ended = Some(status);
                }
                self.open = None;
            }
            FrameLine::Done => self.done = true,
        }
    }

    /// Something that is no part of it came in the middle of the open section.
    fn spoil(&mut self) {
        if let Some(section) = self.open.and_then(|index| self.sections.get_mut(index)) {
            section.spoilt = true;
        }
    }

    /// What became of each section, in order. `limits` are their time limits.
    pub(super) fn finish(self, limits: impl IntoIterator<Item = std::time::Duration>) -> Vec<SectionOutput> {
        self.sections.into_iter().zip(limits).map(|(frame, limit)| frame.finish(limit)).collect()
    }
}

enum FrameLine {
    Begin(usize),
    Exit(i32),
    End(usize, i32),
    Done,
}

/// The status of a shell's child that was killed (128 + 9), which is what `timeout -s KILL` ends with.
const KILLED: i32 = 137;

impl Frame {
    fn finish(self, limit: std::time::Duration) -> SectionOutput {
        let Some(ended) = self.ended else { return SectionOutput::Missing };
        let decoded = STANDARD.decode(&self.encoded);
        // First of all: what is over the limit is so, whatever came of it. (Encoded bytes past the limit are not kept,
        // and may then not decode.)
        let over = self.encoded.len() > self.max_bytes.div_ceil(3) * 4;
        if over || decoded.as_ref().is_ok_and(|bytes| bytes.len() > self.max_bytes) {
            return SectionOutput::TooLarge { limit: self.max_bytes };
        }
        match (self.exit, decoded) {
            (None, _) if ended == KILLED => SectionOutput::TimedOut { after: limit },
            (Some(exit), Ok(bytes)) if !self.spoilt => SectionOutput::Complete { bytes, exit },
            _ => SectionOutput::Malformed,
        }
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn nonce() -> Nonce {
        Nonce("0123456789abcdef0123456789abcdef".to_owned())
    }

    /// What a machine prints for sections of this content, cut into pieces of `piece` bytes.
    fn read(max_bytes: &[usize], printed: &[u8], piece: usize) -> (Progress, Vec<SectionOutput>) {
        let mut frames = Frames::new(nonce(), max_bytes.iter().copied());
        let mut progress = Progress::More;
        for bytes in printed.chunks(piece) {
            progress = frames.push(bytes);
            if progress != Progress::More {
                break;
            }
        }
        (progress, frames.finish(vec![LIMIT; max_bytes.len()]))
    }

    fn encode(bytes: &[u8]) -> String {
        let encoded = STANDARD.encode(bytes);
        encoded.as_bytes().chunks(76).map(|line| format!("{}\n", String::from_utf8_lossy(line))).collect()
    }

    fn section(index: usize, bytes: &[u8], exit: i32) -> String {
        let n = nonce();
        let n = n.as_str();
        format!("\n{n} begin {index}\n{}{n} exit {exit}\n\n{n} end {index} 0\n", encode(bytes))
    }

    fn done() -> String {
        format!("\n{} done\n", nonce().as_str())
    }

    fn complete(bytes: &[u8], exit: i32) -> SectionOutput {
        SectionOutput::Complete { bytes: bytes.to_vec(), exit }
    }

    #[test]
    fn a_whole_look_with_noise_around_it() {
        let printed = format!("Welcome!\nno newline{}noise\n{}{}", section(0, b"a\0b", 0), section(1, b"", 2), done());
        for piece in [1, 7, 4096] {
            let (progress, sections) = read(&[10, 10], printed.as_bytes(), piece);
            assert_eq!(progress, Progress::Done);
            assert_eq!(sections, [complete(b"a\0b", 0), complete(b"", 2)]);
        }
    }

    #[test]
    fn what_ended_before_a_cut_is_kept() {
        let whole = format!("{}{}{}", section(0, b"first", 0), section(1, b"second", 0), done());
        let cut = whole.find("begin 1").unwrap() + 10;
        let (progress, sections) = read(&[10, 10], &whole.as_bytes()[..cut], 3);
        assert_eq!(progress, Progress::More);
        assert_eq!(sections, [complete(b"first", 0), SectionOutput::Missing]);
    }

    #[test]
    fn the_limit_is_kept_to_the_byte() {
        for (bytes, fits) in [(7, true), (8, false), (9, false), (4000, false)] {
            let content = vec![b'x'; bytes];
            let (_, sections) = read(&[7], format!("{}{}", section(0, &content, 0), done()).as_bytes(), 100);
            let expected = if fits { complete(&content, 0) } else { SectionOutput::TooLarge { limit: 7 } };
            assert_eq!(sections, [expected], "{bytes}");
        }
    }

    #[test]
    fn killed_is_timed_out_and_any_other_end_without_a_status_is_malformed() {
        let n = nonce();
        let n = n.as_str();
        for (status, expected) in [(137, SectionOutput::TimedOut { after: LIMIT }), (127, SectionOutput::Malformed)] {
            let printed = format!("{n} begin 0\n\n{n} end 0 {status}\n{n} done\n");
            assert_eq!(read(&[10], printed.as_bytes(), 100).1, [expected]);
        }
    }

    #[test]
    fn a_voice_in_the_middle_spoils_only_its_section() {
        let noisy = section(0, b"first", 0).replace("\nZmly", "\nhello there\nZmly");
        assert!(noisy.contains("hello"));
        let (_, sections) = read(&[10, 10], format!("{noisy}{}{}", section(1, b"second", 0), done()).as_bytes(), 9);
        assert_eq!(sections, [SectionOutput::Malformed, complete(b"second", 0)]);
    }

    #[test]
    fn frames_of_another_nonce_are_noise() {
        let forged = section(0, b"forged", 0).replace("0123", "3210");
        let (progress, sections) = read(&[10], format!("{forged}{}", done()).as_bytes(), 9);
        assert_eq!(progress, Progress::Done);
        assert_eq!(sections, [SectionOutput::Missing]);
    }

    #[test]
    fn noise_without_end_is_cut_off() {
        for noise in ["x".repeat(NOISE_ALLOWED + LONGEST_LINE + 1), "x\n".repeat(NOISE_ALLOWED)] {
            assert_eq!(read(&[10], noise.as_bytes(), 4096).0, Progress::Flooded);
        }
        let endless = format!("{} begin 0\n{}", nonce().as_str(), "QUJD\n".repeat(NOISE_ALLOWED));
        let (progress, sections) = read(&[10], endless.as_bytes(), 4096);
        assert_eq!(progress, Progress::Flooded);
        assert_eq!(sections, [SectionOutput::Missing]);
    }

    #[test]
    fn large_honest_sections_are_no_noise() {
        let content = vec![7; 3 * 1024 * 1024];
        let (progress, sections) =
            read(&[content.len()], format!("{}{}", section(0, &content, 0), done()).as_bytes(), 32768);
        assert_eq!(progress, Progress::Done);
        assert_eq!(sections, [complete(&content, 0)]);
    }

    proptest! {
        #[test]
        fn any_sections_come_back(
            contents in proptest::collection::vec((any::<Vec<u8>>(), 0..256), 1..6),
            piece in 1usize..300,
        ) {
            let printed: String =
                contents.iter().enumerate().map(|(i, (bytes, exit))| section(i, bytes, *exit)).collect();
            let (progress, sections) =
                read(&vec![1 << 16; contents.len()], format!("{printed}{}", done()).as_bytes(), piece);
            prop_assert_eq!(progress, Progress::Done);
            let expected: Vec<_> = contents.iter().map(|(bytes, exit)| complete(bytes, *exit)).collect();
            prop_assert_eq!(sections, expected);
        }

        #[test]
        fn no_bytes_make_it_panic_or_grow(
            parts in proptest::collection::vec(
                prop_oneof![
                    any::<Vec<u8>>(),
                    "0123456789abcdef0123456789abcdef (begin|exit|end|done)( -?[0-9]{1,12}){0,3}\n"
                        .prop_map(String::into_bytes),
                    "[A-Za-z0-9+/=]{0,80}\n".prop_map(String::into_bytes),
                ],
                0..40,
            ),
            piece in 1usize..100,
        ) {
            let (_, sections) = read(&[5, 50], &parts.concat(), piece);
            for output in sections {
                if let SectionOutput::Complete { bytes, .. } = output {
                    prop_assert!(bytes.len() <= 50);
                }
            }
        }
    }
}
