//! Words for a shell. The only place where text that is not a constant becomes part of what a shell reads.
//!
//! Quoting is the `shlex` crate's work; this module refuses what no quoting can carry. Knows nothing of what the words
//! mean.

/// The longest word that is passed on, in bytes. Linux refuses a single argument of 128 KiB (`MAX_ARG_STRLEN`); half
/// of it leaves room for the quoting of a word inside a word.
pub(super) const LONGEST_WORD: usize = 64 * 1024;

/// An argument that cannot be handed to a command on a machine.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadArgument {
    /// A NUL byte ends a C string, so no command can receive one.
    #[error("argument {position} holds a NUL byte, which no command can receive")]
    Nul {
        /// Counted from 1, as `$1` of the script.
        position: usize,
    },
    /// Longer than 64 KiB.
    #[error("argument {position} is {bytes} bytes long, over {LONGEST_WORD}")]
    TooLong {
        /// Counted from 1, as `$1` of the script.
        position: usize,
        /// Its length.
        bytes: usize,
    },
}

/// Checks arguments of the owner's, before anything is sent.
pub(super) fn check_arguments(args: &[String]) -> Result<(), BadArgument> {
    for (index, arg) in args.iter().enumerate() {
        let position = index + 1;
        if arg.contains('\0') {
            return Err(BadArgument::Nul { position });
        }
        if arg.len() > LONGEST_WORD {
            return Err(BadArgument::TooLong { position, bytes: arg.len() });
        }
    }
    Ok(())
}

/// `words` as one line of shell that expands to exactly these words. Fails only for a NUL byte, with the position of
/// the word that holds it.
pub(super) fn shell_words<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<String, BadArgument> {
    let mut line = String::new();
    for (index, word) in words.into_iter().enumerate() {
        if index > 0 {
            line.push(' ');
        }
        line.push_str(&shlex::try_quote(word).map_err(|_| BadArgument::Nul { position: index })?);
    }
    Ok(line)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    /// What a real shell makes of a line, one word a line, as hex.
    fn words_of(shell: &str, line: &str) -> Vec<Vec<u8>> {
        let program = format!("set -- {line}\nfor w do printf '%s\\0' \"$w\"; done");
        let output = Command::new(shell).args(["-c", &program]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let mut words: Vec<Vec<u8>> = output.stdout.split(|b| *b == 0).map(<[u8]>::to_vec).collect();
        words.pop();
        words
    }

    #[test]
    fn hostile_words_arrive_as_they_are() {
        let hostile = [
            "",
            "$(reboot)",
            "`reboot`",
            "; reboot #",
            "-rf",
            "--",
            "a'b\"c\\d",
            "line\nbreak\r",
            "*?[a]~",
            "!!",
            "ünï\u{202e}code 🐻",
            "\u{1b}[31m",
            "$'\\x41'",
            "${IFS}",
            "a=b",
        ];
        let line = shell_words(hostile).unwrap();
        for shell in ["sh", "bash"] {
            let got = words_of(shell, &line);
            assert_eq!(got, hostile.iter().map(|w| w.as_bytes().to_vec()).collect::<Vec<_>>(), "{shell}");
        }
    }

    #[test]
    fn nul_and_excess_are_refused() {
        let arg = |s: &str| vec!["fine".to_owned(), s.to_owned()];
        assert_eq!(check_arguments(&arg("a\0b")), Err(BadArgument::Nul { position: 2 }));
        assert_eq!(
            check_arguments(&arg(&"x".repeat(LONGEST_WORD + 1))),
            Err(BadArgument::TooLong { position: 2, bytes: LONGEST_WORD + 1 })
        );
        assert_eq!(check_arguments(&arg(&"x".repeat(LONGEST_WORD))), Ok(()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_words_arrive_as_they_are(words in proptest::collection::vec("[^\0]{0,30}", 1..6)) {
            let line = shell_words(words.iter().map(String::as_str)).unwrap();
            let expected: Vec<Vec<u8>> = words.iter().map(|w| w.as_bytes().to_vec()).collect();
            prop_assert_eq!(words_of("sh", &line), expected);
        }
    }
}
