//! Binder's database, by MongoDB's driver, through the SSH connection to the host that it runs on.
//!
//! The driver gets a Unix socket for the time of one piece of work ([`Session::forwarded`]), talks to that single server and
//! looks for no others. What the server answers is bounded in size and depth ([`screen`]) before the driver reads it. Every question has a projection, a limit and a time limit; whatever comes back is taken
//! for hostile and becomes plain facts ([`binder_core::seen::database`]). An edit takes the permit, and names in its filter
//! everything that was seen, so that what has changed meanwhile is left alone.

use super::screen;
use crate::backup::dump;
use crate::backup::store::Store;
use crate::hosts::{ForwardError, Forwarding, Reach, Screen, Session, sanitize};
use binder_core::catalogue::Place;
use binder_core::gate::Permit;
use binder_core::seen::backups::Good;
use binder_core::seen::database::{
    Build, Database, HUNG_MARK, NAME_MARK, NAMES, Name, Names, RUNNING, Row, Status, cased,
};
use binder_core::seen::{Reason, Unknown};
use jiff::Timestamp;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};
use mongodb::options::{ClientOptions, ServerAddress, ServerMonitoringMode};
use mongodb::{Client, Collection};
use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::time::Duration;

/// One look at the database, all its questions together.
const LOOK: Duration = Duration::from_secs(10);
/// One edit.
const EDIT: Duration = Duration::from_secs(15);
/// A whole backup, with its second reading and its verification.
const BACK_UP: Duration = Duration::from_secs(30 * 60);
/// One question, by the server's own clock.
const QUESTION: Duration = Duration::from_secs(3);
/// To get a connection, and to find the server.
const CONNECT: Duration = Duration::from_secs(4);
/// What is taken in over one connection.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    /// At most so many bytes.
    bytes: u64,
    /// Who judges each message.
    screen: Screen,
}

/// For a look or an edit.
const BRIEF: Bounds =
    Bounds { bytes: 16 * 1024 * 1024, screen: |come| screen::small(come).map_err(|refused| refused.to_string()) };
/// For a backup, which has a limit of its own.
const WHOLE: Bounds =
    Bounds { bytes: u64::MAX, screen: |come| screen::large(come).map_err(|refused| refused.to_string()) };
/// The longest address of a repository that is kept, in bytes.
const REPOSITORY: usize = 500;

/// Why a database could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum DatabaseError {
    /// The host cannot reach it.
    #[error(transparent)]
    NotReached(#[from] ForwardError),
    /// It took too long.
    #[error("the database gave no answer within {} s", after.as_secs())]
    TimedOut {
        /// The limit.
        after: Duration,
    },
    /// It refused, or said what cannot be understood.
    #[error("the database: {said}")]
    Said {
        /// What the driver said, clean and bounded.
        said: String,
    },
    /// The permit is for another machine. Nothing was sent.
    #[error("the permit is for host {permitted}, not {host}")]
    WrongHost {
        /// The host of the permit.
        permitted: String,
        /// The host of the session.
        host: String,
    },
}

impl From<mongodb::error::Error> for DatabaseError {
    fn from(error: mongodb::error::Error) -> Self {
        Self::Said { said: sanitize(error.to_string().as_bytes(), 2000) }
    }
}

/// The most of the driver's words that is shown, in characters.
const SAID: usize = 300;

/// What the driver said, as it reads for as long as the cause is the same: without the address (`at`) by which it went, which
/// is another one each time, and without what it measured.
fn lasting_words(said: &str, at: &str, place: &Place) -> String {
    let said = said.replace(at, &format!("127.0.0.1:{}", place.port));
    if let Some((_, rest)) = said.split_once("reports wire version ") {
        let version: String = rest.chars().take_while(char::is_ascii_digit).take(4).collect();
        return format!(
            "this MongoDB is too old to be asked by this operator (wire version {version}{}): it must be 4.4 or later",
            mongodb_of(&version)
        );
    }
    // The driver tells all that it knows of the server; why it could not be chosen is the last of it.
    let why = match said.split_once("Server selection timeout: ") {
        Some((_, known)) => match known.split_once(", Error: ") {
            Some((_, why)) => {
                format!("it takes connections on {} and does not answer as a MongoDB does: {why}", place.port)
            }
            None => format!("it takes connections on {} and gives no answer that a MongoDB gives", place.port),
        },
        None => said,
    };
    sanitize(why.as_bytes(), SAID)
}

/// The MongoDB of a wire version, in words.
fn mongodb_of(wire: &str) -> &'static str {
    match wire {
        "3" => ", MongoDB 3.0",
        "4" => ", MongoDB 3.2",
        "5" => ", MongoDB 3.4",
        "6" => ", MongoDB 3.6",
        "7" => ", MongoDB 4.0",
        "8" => ", MongoDB 4.2",
        _ => "",
    }
}

impl DatabaseError {
    /// Whether an edit may have been made all the same.
    pub fn may_have_run(&self) -> bool {
        match self {
            Self::WrongHost { .. } => false,
            // A connection that broke may have broken after the server had heard.
            Self::NotReached(_) | Self::TimedOut { .. } | Self::Said { .. } => true,
        }
    }

    /// Why a look saw nothing. The words are the same as long as the cause is.
    fn blind(&self) -> Unknown {
        let message = match self {
            Self::NotReached(ForwardError::NotReached { reach: Reach::Refused, to, .. }) => {
                format!("the database does not listen on {to}")
            }
            other => other.to_string(),
        };
        Unknown { reason: Reason::NotAnswered, message }
    }
}

/// The driver, told to talk to one server and to be brief.
///
/// # Errors
/// What the driver makes of the options.
fn client(at: PathBuf) -> Result<Client, mongodb::error::Error> {
    let options = ClientOptions::builder()
        .hosts(vec![ServerAddress::Unix { path: at }])
        .app_name("binder-operator".to_owned())
        // One server, whatever it says of others: they are not reachable by this way.
        .direct_connection(true)
        .server_monitoring_mode(ServerMonitoringMode::Poll)
        .connect_timeout(CONNECT)
        .server_selection_timeout(CONNECT)
        .max_pool_size(2)
        .retry_writes(false)
        .build();
    Client::with_options(options)
}

/// Does a piece of work with the database of a session's host. Within `limit`, all told, and taking in at most what `bounds`
/// say.
///
/// # Errors
/// [`DatabaseError`] when it cannot be reached in time, and whatever the work makes of its own.
async fn with<T, F>(
    session: &Session,
    place: &Place,
    limit: Duration,
    bounds: Bounds,
    work: impl FnOnce(mongodb::Database) -> F,
) -> Result<T, DatabaseError>
where
    F: Future<Output = Result<T, DatabaseError>>,
{
    let to = Forwarding {
        host: "127.0.0.1".to_owned(),
        port: place.port,
        max_bytes: bounds.bytes,
        screen: Some(bounds.screen),
    };
    let talk = session.forwarded(&to, |at| async move {
        let shown = at.display().to_string();
        let client = client(at)?;
        let result = work(client.database(&place.name)).await;
        client.shutdown().immediate(true).await;
        result.map_err(|error| match error {
            DatabaseError::Said { said } => DatabaseError::Said { said: lasting_words(&said, &shown, place) },
            other => other,
        })
    });
    match tokio::time::timeout(limit, talk).await {
        Ok(done) => done?,
        Err(_) => Err(DatabaseError::TimedOut { after: limit }),
    }
}

/// Backs the database up into a store. Reads only; the permit is for what is written into the store.
///
/// # Errors
/// In words, clean and bounded.
pub async fn back_up(session: &Session, permit: Permit, place: &Place, store: &Store) -> Result<Good, String> {
    if permit.done_on() != session.host() {
        let (permitted, host) = (permit.done_on().to_owned(), session.host().to_owned());
        return Err(DatabaseError::WrongHost { permitted, host }.to_string());
    }
    tracing::info!(host = %session.endpoint(), action = permit.action(), to = store.shown(), "backing up");
    let now = Timestamp::now();
    let done =
        with(session, place, BACK_UP, WHOLE, |database| async move { Ok(dump::dump(&database, store, now).await) });
    match done.await {
        Ok(Ok(good)) => Ok(good),
        Ok(Err(error)) => Err(error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}

/// Reads what the facets need.
///
/// # Errors
/// [`Unknown`] when the database could not be asked: then nothing is known of it.
pub async fn read(session: &Session, place: &Place, names: bool) -> Result<Database, Unknown> {
    with(session, place, LOOK, BRIEF, |database| async move { Ok(look(&database, names).await?) })
        .await
        .map_err(|error| error.blind())
}

async fn look(database: &mongodb::Database, names: bool) -> Result<Database, mongodb::error::Error> {
    let builds = database.collection::<RawDocumentBuf>("builds");
    let templates = database.collection::<RawDocumentBuf>("templates");
    let count = |collection: &Collection<RawDocumentBuf>| {
        let collection = collection.clone();
        async move { collection.estimated_document_count().max_time(QUESTION).await }
    };
    let fields = doc! { "_id": 0, "name": 1, "startTime": 1, "repo": 1, "error": 1 };
    let mut running = Vec::new();
    let (filter, sort) = running_builds();
    for row in rows(&builds, filter, fields.clone(), Some(sort), RUNNING + 1).await? {
        running.push(build(&row));
    }
    let mut owed = Vec::new();
    for row in rows(&builds, doc! { "status": "failed", "error": HUNG_MARK }, fields, None, RUNNING).await? {
        owed.push(build(&row));
    }
    let more_running = running.len() > RUNNING;
    running.truncate(RUNNING);
    Ok(Database {
        builds: count(&builds).await?,
        templates: count(&templates).await?,
        apps: count(&database.collection("apps")).await?,
        running,
        more_running,
        owed,
        names: if names { Some(self::names(&builds, &templates).await?) } else { None },
    })
}

/// Which builds run, and which of them first: the oldest. What has no time would come before all that hang, in MongoDB's order of
/// values, and many of them would hide those: a condition on a date fits dates only.
fn running_builds() -> (Document, Document) {
    let filter = doc! { "status": "running", "startTime": { "$gte": DateTime::from_millis(0) } };
    (filter, doc! { "startTime": 1 })
}

async fn names(
    builds: &Collection<RawDocumentBuf>,
    templates: &Collection<RawDocumentBuf>,
) -> Result<Names, mongodb::error::Error> {
    let of_builds = rows(builds, doc! {}, doc! { "_id": 0, "name": 1, "status": 1 }, None, NAMES + 1).await?;
    let of_templates = rows(templates, doc! {}, doc! { "_id": 0, "name": 1, "image-name": 1 }, None, NAMES + 1).await?;
    let cut = of_builds.len() > NAMES || of_templates.len() > NAMES;
    let read = |rows: &[RawDocumentBuf]| -> Vec<Row> {
        rows.iter()
            .take(NAMES)
            .map(|row| Row {
                name: name(row),
                image: text(row, "image-name").map(Name::of),
                status: text(row, "status").map_or(Status::Other, Status::of),
            })
            .collect()
    };
    // What has failed is launched by nobody, and says why; its template stays behind unused.
    let (failed, used): (Vec<Row>, Vec<Row>) =
        read(&of_builds).into_iter().partition(|row| row.status == Status::Failed);
    let failed: BTreeSet<Name> = failed.into_iter().map(|row| row.name).collect();
    let templates: Vec<Row> = read(&of_templates).into_iter().filter(|row| !failed.contains(&row.name)).collect();
    Ok(Names { builds: cased(&used), templates: cased(&templates), cut })
}

/// At most so many rows of a collection.
async fn rows(
    collection: &Collection<RawDocumentBuf>,
    filter: Document,
    fields: Document,
    sort: Option<Document>,
    most: usize,
) -> Result<Vec<RawDocumentBuf>, mongodb::error::Error> {
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let find = collection.find(filter).projection(fields).limit(limit).max_time(QUESTION);
    let mut cursor = match sort {
        Some(sort) => find.sort(sort).await?,
        None => find.await?,
    };
    let mut rows = Vec::new();
    // The server was told the limit; that it keeps to it is not taken for granted.
    while rows.len() < most && cursor.advance().await? {
        rows.push(cursor.current().to_owned());
    }
    Ok(rows)
}

fn text<'r>(row: &'r RawDocumentBuf, field: &str) -> Option<&'r str> {
    row.get_str(field).ok()
}

fn name(row: &RawDocumentBuf) -> Name {
    Name::of(text(row, "name").unwrap_or_default())
}

fn build(row: &RawDocumentBuf) -> Build {
    let started = row.get_datetime("startTime").ok();
    Build {
        name: name(row),
        started: started.and_then(|at| Timestamp::from_millisecond(at.timestamp_millis()).ok()),
        repository: text(row, "repo").filter(|repository| repository.len() <= REPOSITORY).map(str::to_owned),
        marked: text(row, "error") == Some(HUNG_MARK),
    }
}

/// Sets a build to `failed`, if it still is the very one that was seen: the same name, running, started at the same
/// moment. Says how many were changed.
///
/// # Errors
/// [`DatabaseError`].
pub async fn fail_hung(
    session: &Session,
    permit: Permit,
    place: &Place,
    name: &str,
    started: Timestamp,
) -> Result<u64, DatabaseError> {
    let at = DateTime::from_millis(started.as_millisecond());
    let filter = doc! { "name": name, "status": "running", "startTime": at };
    edit(session, permit, place, filter, HUNG_MARK).await
}

/// Sets a completed build whose name cannot be launched to `failed`, with the reason. Says how many were changed.
///
/// # Errors
/// [`DatabaseError`].
pub async fn fail_unusable(session: &Session, permit: Permit, place: &Place, name: &str) -> Result<u64, DatabaseError> {
    edit(session, permit, place, doc! { "name": name, "status": "completed" }, NAME_MARK).await
}

async fn edit(
    session: &Session,
    permit: Permit,
    place: &Place,
    filter: Document,
    error: &str,
) -> Result<u64, DatabaseError> {
    if permit.done_on() != session.host() {
        return Err(DatabaseError::WrongHost {
            permitted: permit.done_on().to_owned(),
            host: session.host().to_owned(),
        });
    }
    tracing::info!(host = %session.endpoint(), action = permit.action(), database = place.name, "editing one build");
    with(session, place, EDIT, BRIEF, |database| async move {
        let builds = database.collection::<RawDocumentBuf>("builds");
        let done = builds.update_one(filter, doc! { "$set": { "status": "failed", "error": error } }).await?;
        Ok(done.modified_count)
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(by: u16, words: &str) -> String {
        let place = Place { port: 9050, name: "binder".to_owned() };
        lasting_words(&words.replace("PORT", &by.to_string()), &format!("127.0.0.1:{by}"), &place)
    }

    #[test]
    fn builds_without_a_time_hide_none_that_hangs() {
        use mongodb::bson::Bson;
        let (filter, sort) = running_builds();
        assert_eq!(sort, doc! { "startTime": 1 });
        let from = filter.get_document("startTime").and_then(|of| of.get_datetime("$gte")).copied();
        // As MongoDB compares: values of one type only; a field that is not there is none of them.
        let asked = |row: &Document| {
            filter.get("status") == row.get("status")
                && matches!((row.get("startTime"), &from), (Some(Bson::DateTime(at)), Ok(from)) if at >= from)
        };
        let row = |started: Bson| doc! { "status": "running", "startTime": started };
        assert!(asked(&row(DateTime::from_millis(1_464_782_400_000).into())));
        assert!(!asked(&doc! { "status": "running" }) && !asked(&row(Bson::Null)) && !asked(&row("2016".into())));
        assert!(!asked(&doc! { "status": "completed", "startTime": DateTime::from_millis(1) }));
    }

    #[test]
    fn a_message_is_the_same_in_each_look() {
        for words in [
            "Kind: Server selection timeout: No available servers. Topology: { Type: Single, Servers: [ { Address: 127.0.0.1:PORT, \
             Type: Unknown, Error: Kind: I/O error: timed out, labels: {} } ] }, labels: {}",
            "Kind: I/O error: connection to 127.0.0.1:PORT was reset, labels: {}",
            "Kind: Server at 127.0.0.1:PORT reports wire version 4, but this version of the MongoDB Rust driver requires at least 9 \
             (MongoDB 4.4)., labels: {}",
        ] {
            let (one, other) = (said(40835, words), said(38837, words));
            assert_eq!(one, other);
            assert!(!one.contains("40835") && one.chars().count() <= SAID, "{one}");
        }
    }

    #[test]
    fn a_mongodb_of_binders_time_is_said_to_be_too_old() {
        let words = "Kind: Server at 127.0.0.1:PORT reports wire version 4, but this version of the MongoDB Rust driver requires \
                     at least 9 (MongoDB 4.4)., labels: {}";
        let told = said(33799, words);
        assert!(told.contains("MongoDB 3.2") && told.contains("must be 4.4 or later"), "{told}");
    }
}
