//! The backups of a database, as their place of storage tells. Only what was verified after it was written counts: a
//! backup gets its manifest last. Pure: listing is `backup`'s, in the operator.

use jiff::Timestamp;

/// The backups of one host's database.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backups {
    /// The last good one.
    pub last: Option<Good>,
    /// How many good ones there are.
    pub count: u32,
    /// Why their place cannot be used, if it cannot: for a person to put right.
    pub unusable: Option<String>,
}

/// A backup that was verified after it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Good {
    /// Its name: the time at which it was begun, as in its folder.
    pub name: String,
    /// The time at which it was begun: nothing older is missing from it.
    pub at: Timestamp,
    /// How many documents it holds.
    pub documents: u64,
    /// How many bytes it takes.
    pub bytes: u64,
}
