//! Strings with a rule: each type carries the CEL rule that the API server checks and the message that says what to
//! write instead, and checks the same rule again in [`Checked::checked`], since an object may be older than its schema.
//!
//! Knows nothing of the objects that use these types.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::time::Duration;

/// A value that does not follow its type's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadText {
    /// The name of the type, as documented.
    pub what: &'static str,
    /// What to write instead; the same sentence as the API server's.
    pub remedy: &'static str,
}

impl std::fmt::Display for BadText {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "not a valid {}: {}", self.what, self.remedy)
    }
}

impl std::error::Error for BadText {}

/// A string type whose rule can be checked without the API server.
pub trait Checked {
    /// The text, if it follows the rule.
    ///
    /// # Errors
    /// [`BadText`] says what to write instead. It never repeats the text, which may be hostile.
    fn checked(&self) -> Result<&str, BadText>;
}

/// Declares a string type: its rule in CEL (for the API server) and in Rust (for objects that it never saw).
macro_rules! text {
    ($(#[$doc:meta])* $name:ident, max $max:literal, rule $rule:literal, remedy $remedy:literal, check $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl From<&str> for $name {
            fn from(text: &str) -> Self {
                Self(text.to_owned())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl Checked for $name {
            fn checked(&self) -> Result<&str, BadText> {
                let check: fn(&str) -> bool = $check;
                if !self.0.is_empty() && self.0.chars().count() <= $max && check(&self.0) {
                    Ok(&self.0)
                } else {
                    Err(BadText { what: stringify!($name), remedy: $remedy })
                }
            }
        }

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "minLength": 1,
                    "maxLength": $max,
                    "x-kubernetes-validations": [{ "rule": $rule, "message": $remedy }],
                })
            }
        }
    };
}

fn all(text: &str, extra: &str) -> bool {
    text.chars().all(|c| c.is_ascii_alphanumeric() || extra.contains(c))
}

fn starts_alphanumeric(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
}

fn ends_alphanumeric(text: &str) -> bool {
    text.ends_with(|c: char| c.is_ascii_alphanumeric())
}

text!(
    /// A length of time above zero: `30s`, `15m`, `3h`, `7d` or a row of these such as `1h30m`.
    Span, max 24,
    rule "self.matches('^([0-9]{1,6}[smhd])+$') && self.matches('[1-9]')",
    remedy "write a duration above zero as number and unit (s, m, h, d), for example 30s, 15m or 1h30m",
    check |text| parse_span(text).is_some_and(|span| !span.is_zero())
);

impl Span {
    /// The length of time.
    ///
    /// # Errors
    /// [`BadText`] if the text is not a duration.
    pub fn duration(&self) -> Result<Duration, BadText> {
        let text = self.checked()?;
        parse_span(text).ok_or(BadText { what: "Span", remedy: "write a duration such as 30s or 1h30m" })
    }
}

fn parse_span(text: &str) -> Option<Duration> {
    let (mut total, mut rest) = (0u64, text);
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        if digits == 0 || digits > 6 {
            return None;
        }
        let number: u64 = rest[..digits].parse().ok()?;
        let unit = match rest.as_bytes().get(digits)? {
            b's' => 1,
            b'm' => 60,
            b'h' => 3600,
            b'd' => 86400,
            _ => return None,
        };
        total = total.checked_add(number.checked_mul(unit)?)?;
        rest = &rest[digits + 1..];
    }
    Some(Duration::from_secs(total))
}

text!(
    /// A share of a whole, from `1%` to `99%`. Longer texts are let through to the rule, whose message helps more than one
    /// about a length.
    Percent, max 8,
    rule "self.matches('^[1-9][0-9]?%$')",
    remedy "write a percentage from 1% to 99%, for example 85%",
    check |text| parse_percent(text).is_some()
);

impl Percent {
    /// The number before the sign, 1 to 99.
    ///
    /// # Errors
    /// [`BadText`] if the text is not a percentage.
    pub fn value(&self) -> Result<u8, BadText> {
        parse_percent(self.checked()?).ok_or(BadText { what: "Percent", remedy: "write a percentage such as 85%" })
    }
}

fn parse_percent(text: &str) -> Option<u8> {
    let digits = text.strip_suffix('%')?;
    let number: u8 = digits.parse().ok()?;
    (!digits.starts_with(['0', '+']) && (1..=99).contains(&number)).then_some(number)
}

text!(
    /// An absolute path on a host, of letters, digits and `. _ - @ % + = : , /`, without `..` parts.
    HostPath, max 255,
    rule "self.matches('^/[A-Za-z0-9._@%+=:,/-]*$') && !self.contains('/../') && !self.endsWith('/..')",
    remedy "write an absolute path of letters, digits and . _ - @ % + = : , / and without .. in it, for example /var/lib/docker",
    check |text| text.starts_with('/') && all(text, "._@%+=:,/-") && !text.split('/').any(|part| part == "..")
);

text!(
    /// The name of a network interface on a host, such as `eth0`.
    InterfaceName, max 15,
    rule "self.matches('^[A-Za-z0-9][A-Za-z0-9_.-]*$')",
    remedy "write the interface's name as `ip link` shows it, for example eth0",
    check |text| starts_alphanumeric(text) && all(text, "_.-")
);

text!(
    /// The name of a login on a host.
    UserName, max 32,
    rule "self.matches('^[a-z_][a-z0-9_-]*$')",
    remedy "write a login name of lower-case letters, digits, _ and -, for example andrew",
    check |text| text.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
);

text!(
    /// An IP address or a DNS name, without user, port or brackets.
    Address, max 253,
    rule "self.matches('^[A-Za-z0-9:][A-Za-z0-9.:-]*$') && !self.endsWith('-') && size(self.split(':')) != 2",
    remedy "write an IP address or a DNS name alone: no user, no port, no brackets (the port has a field of its own)",
    check |text| text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == ':') && all(text, ".:-") && !text.ends_with('-')
        // One colon alone stands before a port; an IPv6 address has two at least.
        && text.split(':').count() != 2
);

text!(
    /// A label of an instance in its cloud, as `KEY=VALUE`.
    CloudLabel, max 127,
    rule "self.matches('^[a-z][a-z0-9_-]{0,62}=[a-z0-9_-]{0,63}$')",
    remedy "write the label as KEY=VALUE, of lower-case letters, digits, _ and -, for example cluster=binder",
    check |text| text.split_once('=').is_some_and(|(key, value)| {
        let plain = |part: &str| {
            part.len() <= 63
                && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-".contains(c))
        };
        key.starts_with(|c: char| c.is_ascii_lowercase()) && plain(key) && plain(value)
    })
);

text!(
    /// The name of an object in the same namespace.
    ObjectName, max 253,
    rule "self.matches('^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$')",
    remedy "write the object's name: lower-case letters, digits, - and .",
    check |text| starts_alphanumeric(text) && ends_alphanumeric(text)
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
);

text!(
    /// The name of a host's object. A machine's own name may be odd or mixed-case; this one may not.
    HostName, max 63,
    rule "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
    remedy "write lower-case letters, digits and -; a machine whose own name is not like that keeps it in power.gce.instance",
    check |text| starts_alphanumeric(text) && ends_alphanumeric(text)
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
);

text!(
    /// A public host key in the one-line form of OpenSSH, `TYPE BASE64 [COMMENT]`. The longest in use, RSA of 4096 bits,
    /// takes 724 characters before its comment. What the rule costs at most is its expression's length times the text's,
    /// and the API server allows no more: hence the short expression and the types beside it.
    PublicKey, max 800,
    rule "self.matches('^[a-z0-9-]+ AAAA[A-Za-z0-9+/]+=*( [ -~]*)?$') && (self.startsWith('ssh-ed25519 ') || self.startsWith('ssh-rsa ') || self.startsWith('ecdsa-sha2-nistp256 ') || self.startsWith('ecdsa-sha2-nistp384 ') || self.startsWith('ecdsa-sha2-nistp521 '))",
    remedy "write one line of /etc/ssh/ssh_host_*_key.pub, for example `ssh-ed25519 AAAA...`, without a host name in front and without a line break; its comment may be left out",
    check |text| {
        let mut parts = text.splitn(3, ' ');
        let kind = parts.next().unwrap_or_default();
        let body = parts.next().unwrap_or_default().trim_end_matches('=');
        let comment = parts.next().unwrap_or_default();
        ["ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521"].contains(&kind)
            && body.len() > 4 && body.starts_with("AAAA") && all(body, "+/")
            && comment.chars().all(|c| (' '..='~').contains(&c))
    }
);

text!(
    /// A schedule in the five fields of cron: minute, hour, day of month, month, day of week.
    Schedule, max 64,
    rule "self.matches('^([0-9A-Za-z*/,?#-]+ ){4}[0-9A-Za-z*/,?#-]+$')",
    remedy "write the five fields of cron with one space between them, for example `0 3 * * *` for every day at three",
    check |text| text.split(' ').count() == 5 && text.split(' ').all(|field| !field.is_empty() && all(field, "*/,?#-"))
);

text!(
    /// A time zone by its name in the IANA database, such as `Europe/Berlin`.
    TimeZone, max 64,
    rule "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$')",
    remedy "write a name of the IANA time zone database, for example Europe/Berlin or Etc/UTC",
    check |text| text.starts_with(|c: char| c.is_ascii_alphabetic()) && all(text, "_+-/") && !text.ends_with('/') && !text.contains("//")
);

text!(
    /// The name of a pm2 process. Not `all` and not a number alone: pm2 takes these for every process and for an id.
    ProcessName, max 64,
    rule "self.matches('^[0-9]*([A-Za-z]|[0-9][._-])[A-Za-z0-9._-]*$') && self != 'all'",
    remedy "write the name that `pm2 list` shows, of letters, digits and . _ -; `all` and bare numbers mean something else to pm2",
    check |text| starts_alphanumeric(text) && all(text, "._-") && text != "all" && !text.chars().all(|c| c.is_ascii_digit())
);

text!(
    /// The name of an npm module, with its scope if it has one. It becomes an argument and a part of a path, so it begins with
    /// a letter or a digit.
    ModuleName, max 100,
    rule "self.matches('^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$')",
    remedy "write the module's name alone, as npm knows it, for example binder-web or @scope/name: no version, no path, no address",
    check |text| {
        let part = |part: &str| part.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            && part.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c));
        match text.strip_prefix('@') {
            Some(scoped) => scoped.split_once('/').is_some_and(|(scope, name)| part(scope) && part(name)),
            None => part(text),
        }
    }
);

text!(
    /// One exact version of an npm module, such as `1.1.17` or `2.0.0-rc.1`.
    ModuleVersion, max 64,
    rule "self.matches('^(0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})[.](0|[1-9][0-9]{0,8})(-[0-9A-Za-z-]+([.][0-9A-Za-z-]+)*)?$')",
    remedy "write one exact version, for example 1.1.17: no range (^1.1.0, 1.x), no tag (latest), no v in front",
    check |text| {
        let (numbers, rest) = text.split_once('-').map_or((text, None), |(numbers, rest)| (numbers, Some(rest)));
        let number = |part: &str| !part.is_empty() && part.len() <= 9 && part.chars().all(|c| c.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'));
        numbers.split('.').count() == 3 && numbers.split('.').all(number)
            && rest.is_none_or(|rest| rest.split('.').all(|part| !part.is_empty() && all(part, "-")))
    }
);

text!(
    /// Names of Docker images: a name with or without its tag, in which `*` stands for any characters.
    ImagePattern, max 96,
    rule "self.matches('^[A-Za-z0-9*][A-Za-z0-9*._/:@-]*$')",
    remedy "write an image's name, with or without its tag, where * stands for any characters, for example andrewosh/binder-*",
    check |text| text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '*') && all(text, "*._/:@-")
);

impl ImagePattern {
    /// Whether the pattern fits the whole of a name. One that does not follow its rule fits everything: what is kept by
    /// mistake can be removed later.
    pub fn matches(&self, name: &str) -> bool {
        let Ok(pattern) = self.checked() else { return true };
        let mut parts = pattern.split('*');
        let Some(mut rest) = parts.next().and_then(|first| name.strip_prefix(first)) else { return false };
        let mut parts: Vec<&str> = parts.collect();
        let Some(last) = parts.pop() else { return rest.is_empty() };
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        rest.ends_with(last)
    }
}

text!(
    /// What identifies a Kubernetes cluster: the UID of its `kube-system` namespace.
    ClusterId, max 36,
    rule "self.matches('^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$')",
    remedy "write the cluster's identity, as `kubectl get namespace kube-system -o jsonpath={.metadata.uid}` prints it",
    check |text| {
        let lengths: Vec<usize> = text.split('-').map(str::len).collect();
        lengths == [8, 4, 4, 4, 12] && text.chars().all(|c| c == '-' || c.is_ascii_digit() || ('a'..='f').contains(&c))
    }
);

text!(
    /// A name in the cloud's own terms (project, zone or instance), which may be mixed-case.
    CloudName, max 128,
    rule "self.matches('^[A-Za-z0-9]([A-Za-z0-9:._-]*[A-Za-z0-9])?$')",
    remedy "write the name as the cloud's console shows it: letters, digits and : . _ -",
    check |text| starts_alphanumeric(text) && ends_alphanumeric(text) && all(text, ":._-")
);

text!(
    /// The name of a MongoDB database.
    DatabaseName, max 63,
    rule "self.matches('^[A-Za-z0-9_-]+$') && !(self in ['admin', 'config', 'local'])",
    remedy "write the database's name: letters, digits, _ and -, and none of MongoDB's own (admin, config, local)",
    check |text| all(text, "_-") && !["admin", "config", "local"].contains(&text)
);

text!(
    /// The name of a folder, without any path.
    FolderName, max 63,
    rule "self.matches('^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$') && !self.contains('..')",
    remedy "write one folder's name of lower-case letters, digits and . _ -, without a path: it lies below the operator's volume for backups",
    check |text| starts_alphanumeric(text) && ends_alphanumeric(text) && !text.contains("..")
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
);

text!(
    /// A bucket and a folder in it.
    BucketUrl, max 200,
    rule "self.matches('^(s3|gs)://[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9._=-]+)*$') && !self.contains('/..')",
    remedy "write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER, without a slash at the end and without .. in it",
    check |text| {
        let rest = text.strip_prefix("s3://").or_else(|| text.strip_prefix("gs://"));
        rest.is_some_and(|rest| {
            let mut parts = rest.split('/');
            let bucket = parts.next().unwrap_or_default();
            starts_alphanumeric(bucket)
                && bucket.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "._-".contains(c))
                && parts.all(|part| !part.is_empty() && !part.starts_with("..") && all(part, "._=-"))
        })
    }
);

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_written() {
        assert_eq!(Span::from("30s").duration().unwrap(), Duration::from_secs(30));
        assert_eq!(Span::from("1h30m").duration().unwrap(), Duration::from_secs(5400));
        for bad in ["", "3", "h", "3 h", "-3h", "1.5h", "1234567s", "3h ", "３h", "0s", "0h00m"] {
            assert!(Span::from(bad).duration().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn percentages_are_from_1_to_99() {
        assert_eq!(Percent::from("85%").value().unwrap(), 85);
        for bad in ["0%", "100%", "85", "+5%", "05%", "-1%", "8.5%"] {
            assert!(Percent::from(bad).value().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn image_patterns_fit_whole_names() {
        let fits = |pattern: &str, name: &str| ImagePattern::from(pattern).matches(name);
        assert!(fits("andrewosh/binder-*", "andrewosh/binder-base:latest"));
        assert!(fits("andrewosh/binder-base", "andrewosh/binder-base"));
        assert!(fits("*", "anything:1") && fits("*:keep", "a/b:keep") && fits("a*b*c", "aXbYc") && fits("a**c", "ac"));
        for (pattern, name) in [
            ("andrewosh/binder-*", "other/andrewosh/binder-base"),
            ("andrewosh/binder-base", "andrewosh/binder-base2"),
            ("*:keep", "a/b:keep2"),
            ("a*b*c", "aXc"),
            ("ab*ba", "aba"),
        ] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
        assert!(fits("$(reboot)", "andrewosh/binder-base"), "what cannot be read keeps");
    }

    #[test]
    fn hostile_names_and_paths_are_refused() {
        for bad in ["", "x", "/a/../b", "/..", "/a b", "/$(reboot)", "/a\n", "/a;b", "/a'b"] {
            assert!(HostPath::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(HostPath::from("/var/lib/docker").checked().is_ok());
        for bad in ["all", "7", "-x", "a b", "$(reboot)", "a\u{1b}[31m"] {
            assert!(ProcessName::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(ProcessName::from("binder-web-start").checked().is_ok());
        assert!(ProcessName::from("2-web").checked().is_ok());
        for bad in ["0 3 * *", "0 3 * * * *", "0  3 * * *", "$(reboot) 3 * * *", "0 3 * * *\n"] {
            assert!(Schedule::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(InterfaceName::from("-i").checked().is_err());
        assert!(Address::from("andrew@10.0.0.1").checked().is_err());
        assert!(Address::from("10.0.0.1:22").checked().is_err());
        assert!(Address::from("fd00::1").checked().is_ok());
        assert!(PublicKey::from("host ssh-ed25519 AAAA1").checked().is_err());
        assert!(PublicKey::from("ssh-ed25519 AAAAC3Nza me@host\u{1b}[31m").checked().is_err());
        assert!(PublicKey::from("ssh-ed25519 AAAAC3Nza me@host").checked().is_ok());
        for bad in ["", "/", "../x", "a/b", ".a", "a..b", "$(reboot)", "A"] {
            assert!(FolderName::from(bad).checked().is_err(), "{bad:?}");
        }
        for bad in
            ["file:///etc", "s3://", "s3://b/../c", "s3://b/", "http://b/c", "s3://B", "gs://b/$(x)", "s3://k:s@b"]
        {
            assert!(BucketUrl::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(BucketUrl::from("gs://binder-testing/backups/v1").checked().is_ok());
        for bad in [
            "-g",
            "--registry=http://x",
            "../x",
            "a/b",
            "@a",
            "@/b",
            "@a/b/c",
            "A",
            "a@1",
            "a b",
            "$(reboot)",
            ".",
            "..",
        ] {
            assert!(ModuleName::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(ModuleName::from("binder-web").checked().is_ok() && ModuleName::from("@a/b.c").checked().is_ok());
        for bad in [
            "1",
            "1.2",
            "v1.2.3",
            "^1.2.3",
            "latest",
            "1.2.3.4",
            "01.2.3",
            "1.2.x",
            "1.2.3-",
            "1.2.3-a..b",
            "1.2.3+b",
            "-1.2.3",
            "1.2.3\n",
        ] {
            assert!(ModuleVersion::from(bad).checked().is_err(), "{bad:?}");
        }
        assert!(ModuleVersion::from("1.1.17").checked().is_ok() && ModuleVersion::from("2.0.0-rc.1").checked().is_ok());
        assert!(DatabaseName::from("admin").checked().is_err() && DatabaseName::from("a.b").checked().is_err());
    }
}
