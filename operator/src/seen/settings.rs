//! Ports that a host's own settings decide: `~/.binder/NAME.conf`, as Binder's packages read them.
//!
//! A file is JSON that anybody on the host may have written: one number is taken out of it, and nothing else of it goes
//! anywhere, since it may hold more than a port.

use super::{Answer, Ask, Blind, text};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "settings";

/// The largest file that is read, in bytes; Binder's own are below 2 KiB.
const LARGEST: usize = 64 << 10;

/// Prints each file on one line: outside of its strings, JSON takes any white space for any other.
const SCRIPT: &str = r#"
set -u
for name in "$@"; do
  file="$HOME/.binder/$name.conf"
  [ -f "$file" ] || continue
  printf 'conf %s ' "$name"
  head -c 65536 -- "$file" | tr '\n\r' '  '
  echo
done
"#;

/// The section of the probe, for the components of these names.
pub fn ask(names: Vec<String>) -> Ask {
    let max_bytes = (LARGEST + 100) * names.len().max(1);
    Ask { name: NAME, script: SCRIPT, args: names, seconds: 3, max_bytes }
}

/// How deep in a file a port is looked for, and how many are kept of one file; Binder's have four at a depth of two.
const DEEPEST: usize = 3;
const MOST: usize = 64;

/// What the settings say: ports, and nothing else of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// By component and by path, its keys joined by dots.
    ports: BTreeMap<(String, String), u16>,
}

impl Settings {
    /// The port at a path of keys in a component's file, if it says one.
    pub fn port(&self, name: &str, path: &[&str]) -> Option<u16> {
        self.ports.get(&(name.to_owned(), path.join("."))).copied()
    }

    /// Settings that say one port.
    #[cfg(test)]
    pub(crate) fn of(name: &str, path: &[&str], port: u16) -> Self {
        Self { ports: BTreeMap::from([((name.to_owned(), path.join(".")), port)]) }
    }
}

/// Reads the section. A file that is not there, or is no JSON, says nothing: the component's usual port then holds.
///
/// # Errors
/// [`Blind`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<Settings, Blind> {
    let text = text(answer, "Binder's settings")?;
    let mut settings = Settings::default();
    for line in text.lines() {
        let Some((name, json)) = line.strip_prefix("conf ").and_then(|rest| rest.split_once(' ')) else { continue };
        // serde_json refuses what is nested more than 128 deep.
        let Ok(value) = serde_json::from_str::<serde_json::Value>(json) else { continue };
        let mut found = Vec::new();
        ports(&value, "", 0, &mut found);
        settings.ports.extend(found.into_iter().map(|(path, port)| ((name.to_owned(), path), port)));
    }
    Ok(settings)
}

fn ports(value: &serde_json::Value, path: &str, depth: usize, found: &mut Vec<(String, u16)>) {
    let Some(object) = value.as_object().filter(|_| depth < DEEPEST) else { return };
    for (key, value) in object {
        let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
        match value.as_u64().and_then(|number| u16::try_from(number).ok()) {
            Some(port) if port > 0 && found.len() < MOST => found.push((path, port)),
            Some(_) => {}
            None => ports(value, &path, depth + 1, found),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LOGGING: &[&str] = &["logstash", "port"];

    fn said(text: &str) -> Settings {
        read(Some(&Answer::Said { bytes: text.as_bytes().to_vec(), exit: 0 })).unwrap()
    }

    #[test]
    fn a_port_is_read_where_the_component_keeps_it() {
        let settings = said("conf logging {  \"host\": \"198.18.0.11\", \"logstash\": {\"port\": 9100} }\n");
        assert_eq!(settings.port("logging", LOGGING), Some(9100));
        assert_eq!(settings.port("logging", &["port"]), None);
        assert_eq!(settings.port("db", &["port"]), None);
    }

    #[test]
    fn what_is_no_port_is_none() {
        for value in ["0", "-1", "65536", "9050.5", "\"8050\"", "null", "[8050]", "{}", "1e400"] {
            assert_eq!(said(&format!("conf db {{\"port\": {value}}}\n")).port("db", &["port"]), None, "{value}");
        }
        assert_eq!(said("conf db not json\nconf logging\nnonsense\n"), Settings::default());
        let deep = format!("conf db {}", "[".repeat(60_000));
        assert_eq!(said(&deep), Settings::default());
    }

    #[test]
    fn the_script_prints_a_file_on_one_line_and_passes_over_what_is_none() {
        let home = std::env::temp_dir().join(format!("binder-settings-{}", std::process::id()));
        std::fs::create_dir_all(home.join(".binder/dir.conf")).unwrap();
        std::fs::write(home.join(".binder/db.conf"), "{\n  \"port\":\r\n 9050\n}\n").unwrap();
        let output = std::process::Command::new("sh")
            .args(["-c", SCRIPT, "probe", "db", "dir", "logging"])
            .env("HOME", &home)
            .output()
            .unwrap();
        std::fs::remove_dir_all(&home).unwrap();
        assert_eq!(said(&String::from_utf8(output.stdout).unwrap()).port("db", &["port"]), Some(9050));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in ".{0,300}") {
            let _ = said(&format!("conf db {text}\n")).port("db", &["port"]);
        }
    }
}
