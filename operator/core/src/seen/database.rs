//! What Binder's database holds, as far as the facets need it: builds that run, builds that this operator set to failed,
//! how many there are of each kind, names that only their case tells apart.
//!
//! Everything in it was written by somebody else and is hostile: a build's name may be anything at all. A [`Name`] keeps
//! what was read, for the database alone, beside what a person may be shown. Pure: reading is `binder::database`'s, in the operator.

use crate::sanitize;
use jiff::Timestamp;
use std::collections::BTreeMap;

/// Running builds that are looked at, oldest first. Binder's build server runs a handful at a time.
pub const RUNNING: usize = 64;
/// Names that are compared by case. More than this and the rest is not compared, which is said.
pub const NAMES: usize = 10_000;
/// The longest name that is taken for one, in bytes: GitHub allows 39 for an owner and 100 for a repository.
pub const LONGEST_NAME: usize = 200;
/// The most of a name that is shown, in characters.
const SHOWN: usize = 80;

/// The `error` of a build that was set to failed since it ran for too long. By it a later look knows the build as one that
/// is owed another try: the database itself remembers, whatever becomes of the operator.
pub const HUNG_MARK: &str = "set to failed by binder-operator: it ran for longer than a build takes";

/// The `error` of a build that was set to failed since nothing of its name can be launched.
pub const NAME_MARK: &str = "set to failed by binder-operator: its image and its apps would need a name in lower case";

/// What the database holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Database {
    /// How many builds there are, of any status.
    pub builds: u64,
    /// How many templates there are.
    pub templates: u64,
    /// How many apps there are, of any state.
    pub apps: u64,
    /// Builds whose status is `running` and that say when they were started, oldest first, at most [`RUNNING`].
    pub running: Vec<Build>,
    /// Whether there are more of them.
    pub more_running: bool,
    /// Builds that are `failed` with [`HUNG_MARK`], at most [`RUNNING`].
    pub owed: Vec<Build>,
    /// Names, if they were asked for.
    pub names: Option<Names>,
}

/// A build.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// Its name.
    pub name: Name,
    /// When it was started, by the build server's clock; `None` if it does not say so as a date.
    pub started: Option<Timestamp>,
    /// The repository that it is of, as the build server's API takes it.
    pub repository: Option<String>,
    /// Whether it carries [`HUNG_MARK`]: the build server leaves it there when it builds anew.
    pub marked: bool,
}

/// A name out of the database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name {
    raw: String,
}

impl Name {
    /// A name as it was read, cut to what is taken for one.
    pub fn of(raw: &str) -> Self {
        let mut end = raw.len().min(LONGEST_NAME + 1);
        while !raw.is_char_boundary(end) {
            end -= 1;
        }
        Self { raw: raw[..end].to_owned() }
    }

    /// For people: printable, one line, bounded.
    pub fn shown(&self) -> String {
        let clean = sanitize(self.raw.as_bytes(), SHOWN);
        if clean.is_empty() { "(a name without a printable character)".to_owned() } else { clean }
    }

    /// The name itself, if it is one that a repository can have. Only such a build is ever acted on.
    pub fn plain(&self) -> Option<&str> {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        (!self.raw.is_empty() && self.raw.len() <= LONGEST_NAME && self.raw.chars().all(plain)).then_some(&self.raw)
    }

    /// Whether image and Kubernetes names can be made of it as it is.
    pub fn is_lower(&self) -> bool {
        !self.raw.chars().any(char::is_uppercase)
    }

    fn folded(&self) -> String {
        self.raw.to_lowercase()
    }
}

/// The name that the build server gives to a build of a repository (binder-build, `sources/github.js`): the path of its
/// address, with dashes for slashes and with its case. `None` for what is no address at GitHub.
pub fn built_as(repository: &str) -> Option<String> {
    let rest = repository.strip_prefix("https://").or_else(|| repository.strip_prefix("http://"))?;
    let (host, path) = rest.split_once('/')?;
    // As the build server itself does it: whatever ends in github.com.
    if !host.ends_with("github.com") || path.is_empty() || path.contains(['?', '#', '%']) {
        return None;
    }
    Some(path.replace('/', "-"))
}

/// The names in the database, as far as they matter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// Builds whose names only their case tells apart, or whose name is not in lower case.
    pub builds: Vec<Cased>,
    /// The same of templates.
    pub templates: Vec<Cased>,
    /// Whether there are more than [`NAMES`] of a kind, so that some were not compared.
    pub cut: bool,
}

/// One name that case makes trouble for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cased {
    /// The name.
    pub name: Name,
    /// Others that are the same but for case.
    pub others: Vec<Name>,
    /// Whether it is, or asks for an image, that is not in lower case.
    pub not_lower: bool,
    /// The status of a build.
    pub status: Status,
}

/// The status of a build; a template has [`Status::Other`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `running`
    Running,
    /// `completed`
    Completed,
    /// `failed`
    Failed,
    /// Anything else, or none.
    Other,
}

impl Status {
    /// Reads what the database says.
    pub fn of(text: &str) -> Self {
        match text {
            "running" => Self::Running,
            "completed" => Self::Completed,
            "failed" => Self::Failed,
            _ => Self::Other,
        }
    }
}

/// One row that [`cased`] compares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The name.
    pub name: Name,
    /// The name of its image, of a template.
    pub image: Option<Name>,
    /// The status, of a build.
    pub status: Status,
}

/// The names that case makes trouble for, in order.
pub fn cased(rows: &[Row]) -> Vec<Cased> {
    let mut by_fold: BTreeMap<String, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        by_fold.entry(row.name.folded()).or_default().push(row);
    }
    let mut found = Vec::new();
    for group in by_fold.values_mut() {
        group.sort_by(|a, b| a.name.cmp(&b.name));
        for row in group.iter() {
            let not_lower = !row.name.is_lower() || row.image.as_ref().is_some_and(|image| !image.is_lower());
            let others: Vec<Name> =
                group.iter().filter(|other| other.name != row.name).map(|other| other.name.clone()).collect();
            if not_lower || !others.is_empty() {
                found.push(Cased { name: row.name.clone(), others, not_lower, status: row.status });
            }
        }
    }
    found
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn row(name: &str) -> Row {
        Row { name: Name::of(name), image: None, status: Status::Completed }
    }

    #[test]
    fn a_build_has_the_name_that_the_build_server_gives_it() {
        assert_eq!(built_as("https://github.com/Org/Repo").as_deref(), Some("Org-Repo"));
        assert_eq!(built_as("http://www.github.com/a/b/c").as_deref(), Some("a-b-c"));
        for other in ["", "github.com/a/b", "https://gitlab.com/a/b", "https://github.com/", "https://github.com/a?b"] {
            assert_eq!(built_as(other), None, "{other}");
        }
    }

    #[test]
    fn only_a_name_that_a_repository_can_have_is_acted_on() {
        assert_eq!(Name::of("Org-Repo.js_1").plain(), Some("Org-Repo.js_1"));
        for hostile in ["", "$(reboot)", "a b", "a\u{1b}[31mb", "a/../b", "ä", &"x".repeat(201)] {
            assert_eq!(Name::of(hostile).plain(), None, "{hostile:?}");
        }
        assert_eq!(Name::of("$(reboot)").shown(), "$(reboot)");
        assert_eq!(Name::of("a\u{1b}[31mb\n").shown(), "ab");
        assert!(Name::of("\u{7}").shown().starts_with('('));
    }

    #[test]
    fn case_is_what_makes_trouble() {
        let rows = [row("a-b"), row("A-b"), row("c"), row("D")];
        let found = cased(&rows);
        let names: Vec<(String, usize, bool)> =
            found.iter().map(|cased| (cased.name.shown(), cased.others.len(), cased.not_lower)).collect();
        assert_eq!(names, [("A-b".into(), 1, true), ("a-b".into(), 1, false), ("D".into(), 0, true)]);
        let image = Row { image: Some(Name::of("Gcr/x")), ..row("x") };
        assert!(cased(&[image])[0].not_lower);
    }

    proptest! {
        #[test]
        fn any_name_is_survived(raw in ".{0,300}") {
            let name = Name::of(&raw);
            prop_assert!(name.shown().chars().count() <= SHOWN);
            prop_assert!(name.plain().is_none_or(|plain| plain.len() <= LONGEST_NAME));
            let _ = built_as(&raw);
            let _ = cased(&[row(&raw), row(&raw.to_uppercase())]);
        }
    }
}
