//! Ports that a host's own settings decide: `~/.binder/NAME.conf`, as Binder's packages read them.
//!
//! A file is JSON that anybody on the host may have written: one number is taken out of it, and nothing else of it goes
//! anywhere, since it may hold more than a port.

use super::script::{self, script};
use super::{Answer, Ask, Unknown};
use std::collections::BTreeMap;

/// The section's name.
pub const NAME: &str = "settings";

/// The largest file that is read, in bytes; Binder's own are below 2 KiB.
const LARGEST: usize = 64 << 10;

/// Prints each file on one line: outside of its strings, JSON takes any white space for any other. A file that is there and
/// cannot be read ends the section: its usual port would be a guess.
const SCRIPT: &str = script!(
    r#"
for name in "$@"; do
  file="$HOME/.binder/$name.conf"
  [ -f "$file" ] || continue
  take head -c 65536 -- "$file"
  printf 'conf %s %s\n' "$name" "$(printf '%s' "$out" | tr '\n\r' '  ')"
done
end
"#
);

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
/// [`Unknown`] when the section was not completed.
pub fn read(answer: Option<&Answer>) -> Result<Settings, Unknown> {
    let text = script::whole(answer, "Binder's settings")?;
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
        // Node takes `"8080"` for a port as well.
        let number = value.as_u64().or_else(|| value.as_str()?.parse().ok());
        match number.and_then(|number| u16::try_from(number).ok()) {
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
    use crate::seen::script::stand_in::Stage;
    use proptest::prelude::*;

    const LOGGING: &[&str] = &["logstash", "port"];

    fn said(text: &str) -> Settings {
        read(Some(&Answer::Said { bytes: format!("{text}\nend\n").into_bytes(), exit: 0 })).unwrap()
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
        for value in ["0", "-1", "65536", "9050.5", "\"x\"", "\"0\"", "null", "[8050]", "{}", "1e400"] {
            assert_eq!(said(&format!("conf db {{\"port\": {value}}}\n")).port("db", &["port"]), None, "{value}");
        }
        assert_eq!(said("conf web {\"port\": \"8080\"}\n").port("web", &["port"]), Some(8080));
        assert_eq!(said("conf db not json\nconf logging\nnonsense\n"), Settings::default());
        let deep = format!("conf db {}", "[".repeat(60_000));
        assert_eq!(said(&deep), Settings::default());
    }

    #[test]
    fn the_script_prints_a_file_on_one_line_and_passes_over_what_is_none() {
        let stage = Stage::new();
        std::fs::create_dir_all(stage.home().join(".binder/dir.conf")).unwrap();
        std::fs::write(stage.home().join(".binder/db.conf"), "{\n  \"port\":\r\n 9050\n}\n").unwrap();
        let ask = ask(vec!["db".to_owned(), "dir".to_owned(), "logging".to_owned()]);
        for shell in [&["sh"][..], &["bash"], &["busybox", "sh"]] {
            assert_eq!(
                read(Some(&stage.run_with(shell, &ask))).unwrap().port("db", &["port"]),
                Some(9050),
                "{shell:?}"
            );
        }
        // A file that cannot be read says nothing of its port.
        let blind = read(Some(&stage.tool("head", "echo 'head: db.conf: Permission denied' >&2; exit 1").run(&ask)));
        assert!(blind.unwrap_err().message.contains("Permission denied"));
    }

    proptest! {
        #[test]
        fn any_output_is_survived(text in ".{0,300}") {
            let _ = said(&format!("conf db {text}\n")).port("db", &["port"]);
        }
    }
}
