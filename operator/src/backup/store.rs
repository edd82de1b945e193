//! Where backups lie: a directory of the operator's own, or a bucket; one library for both.
//!
//! A store is the folder of one host's backups. Each is a folder in it, named by the time at which it was begun. What has
//! no manifest is no backup: it was cut off, and goes with the next clean-up. Must not know what a backup holds.

use super::BackupError;
use super::manifest::{FILE, MOST_BYTES, Manifest, VERSION};
use crate::hosts::sanitize;
use binder_core::seen::backups::{Backups, Good};
use binder_crds::desired::BackupPlace;
use binder_crds::text::Checked;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use hyper::body::Bytes;
use jiff::{SignedDuration, Timestamp};
use object_store::aws::AmazonS3Builder;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{Certificate, ClientOptions, ObjectStore, ObjectStoreExt, PutPayload, RetryConfig};
use secrecy::{ExposeSecret, SecretString};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// How a backup's folder is named.
const NAMED: &str = "%Y%m%dT%H%M%SZ";
/// The most files that are listed. A thousand backups of twenty collections are 42 000.
const MOST_FILES: usize = 100_000;
/// The entries of a Secret that are handed on to the library. Any other is refused, so that no setting is smuggled in.
pub const OPTIONS: &[&str] = &[
    "aws_access_key_id",
    "aws_secret_access_key",
    "aws_session_token",
    "aws_region",
    "aws_endpoint",
    "google_service_account_key",
];
/// Secret key with extra CA certificates (PEM) to trust for the bucket's endpoint, e.g. an
/// in-house server. Named as Kubernetes names it in its own Secrets.
pub const AUTHORITIES: &str = "ca.crt";
/// How long a failed request to a bucket is retried. The library's default of three minutes would stall every look at
/// the host.
const ASKED_AGAIN_FOR: Duration = Duration::from_secs(10);

/// One host's backups.
#[derive(Clone, Debug)]
pub struct Store {
    inner: Arc<dyn ObjectStore>,
    root: Path,
    /// The directory of this computer below which `root` is; `None` for a bucket.
    volume: Option<PathBuf>,
    shown: String,
}

/// Which good backups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keep {
    /// How many.
    pub number: u32,
    /// How old the older ones may be.
    pub age: Option<Duration>,
}

/// What the operator itself has for storing backups.
#[derive(Clone, Copy, Debug, Default)]
pub struct Means<'a> {
    /// Its own directory for backups.
    pub volume: Option<&'a std::path::Path>,
    /// Whether a bucket without keys may be used with the cloud identity of the operator's pod or machine.
    pub ambient_identity: bool,
}

impl Store {
    /// The store that an owner described for one host.
    ///
    /// In the operator's own directory for backups, a host's folder is below its namespace's, so that nobody
    /// reaches what is another namespace's. `secret` holds the entries of the Secret that a bucket names.
    ///
    /// # Errors
    /// [`BackupError::Place`] says what the owner or the operator's administrator has to put right.
    pub fn described(
        place: &BackupPlace,
        means: Means<'_>,
        namespace: &str,
        host: &str,
        secret: &BTreeMap<String, SecretString>,
    ) -> Result<Self, BackupError> {
        let wrong = |why: &str| BackupError::Place(why.to_owned());
        match (&place.directory, &place.bucket) {
            (Some(directory), None) => {
                let folder = directory.checked().map_err(|bad| BackupError::Place(format!("to.directory is {bad}")))?;
                let volume = means.volume.ok_or_else(|| {
                    wrong("the operator has no volume for backups: set backups.volume in its chart, or use to.bucket")
                })?;
                let inner = LocalFileSystem::new_with_prefix(volume).map_err(|error| {
                    let said = sanitize(error.to_string().as_bytes(), 200);
                    BackupError::Place(format!("the operator's volume for backups cannot be used: {said}"))
                })?;
                let root = parsed(&[namespace, folder, host])?;
                Ok(Self {
                    inner: Arc::new(inner),
                    root,
                    volume: Some(volume.to_owned()),
                    shown: format!("the directory {folder}"),
                })
            }
            (None, Some(bucket)) => {
                let url = bucket.url.checked().map_err(|bad| BackupError::Place(format!("to.bucket.url is {bad}")))?;
                let known = |key: &&String| OPTIONS.contains(&key.as_str()) || *key == AUTHORITIES;
                if let Some(other) = secret.keys().find(|key| !known(key)) {
                    let other = sanitize(other.as_bytes(), 60);
                    return Err(BackupError::Place(format!(
                        "the Secret {} has an entry {other} that is not known: {}, {AUTHORITIES}",
                        bucket.credentials_secret_ref.name,
                        OPTIONS.join(", ")
                    )));
                }
                let entries = secret.iter().map(|(key, value)| (key.as_str(), value.expose_secret()));
                let entries: BTreeMap<&str, &str> = entries.collect();
                if !means.ambient_identity
                    && let Some(missing) = keys_missing(url, &entries)
                {
                    return Err(BackupError::Place(format!(
                        "the Secret {} has no entry {missing}: a bucket is used with keys of its own and not with the operator's \
                         cloud identity (its flag --allow-ambient-cloud-identity would allow that)",
                        bucket.credentials_secret_ref.name
                    )));
                }
                let (inner, root) = open(url, entries)?;
                let root = parsed(&[root.as_ref(), namespace, host])?;
                Ok(Self { inner, root, volume: None, shown: url.to_owned() })
            }
            _ => Err(wrong("say where backups go: to.directory or to.bucket")),
        }
    }

    /// The store at a URL (`s3://`, `gs://`) or in a directory of this computer, for a person at a keyboard. What a bucket
    /// needs is in the environment, under the library's usual names; which authorities are believed is this computer's
    /// business (`SSL_CERT_FILE`).
    ///
    /// # Errors
    /// [`BackupError::Place`].
    pub fn at(place: &str) -> Result<Self, BackupError> {
        if place.contains("://") {
            let environment: Vec<(String, String)> = std::env::vars()
                .map(|(name, value)| (name.to_ascii_lowercase(), value))
                .filter(|(name, _)| OPTIONS.contains(&name.as_str()))
                .collect();
            let entries = environment.iter().map(|(name, value)| (name.as_str(), value.as_str()));
            let (inner, root) = open(place, entries.collect())?;
            return Ok(Self { inner, root, volume: None, shown: place.to_owned() });
        }
        let folder = PathBuf::from(place);
        let inner = LocalFileSystem::new_with_prefix(&folder)
            .map_err(|error| BackupError::Place(format!("`{place}` cannot be used: {error}")))?;
        Ok(Self { inner: Arc::new(inner), root: Path::default(), volume: Some(folder), shown: place.to_owned() })
    }

    /// The folder of one backup in this store.
    ///
    /// # Errors
    /// It cannot be a folder's name.
    pub fn folder(&self, name: &str) -> Result<Self, BackupError> {
        let root = parsed(&[self.root.as_ref(), name])?;
        let (inner, volume) = (Arc::clone(&self.inner), self.volume.clone());
        Ok(Self { inner, root, volume, shown: format!("{}/{name}", self.shown) })
    }

    /// Where it is, for people.
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// The library's own handle and the path of a file, for streams.
    ///
    /// # Errors
    /// It cannot be a file's name.
    pub fn file(&self, file: &str) -> Result<(Arc<dyn ObjectStore>, Path), BackupError> {
        Ok((Arc::clone(&self.inner), parsed(&[self.root.as_ref(), file])?))
    }

    pub(super) fn failed(&self, verb: &'static str, what: &str) -> impl FnOnce(object_store::Error) -> BackupError {
        let (what, place) = (what.to_owned(), self.shown.clone());
        move |error| BackupError::Store { verb, what, place, said: told(&error) }
    }

    /// Writes a small file.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub async fn write(&self, file: &str, bytes: Vec<u8>) -> Result<(), BackupError> {
        let (inner, path) = self.file(file)?;
        inner.put(&path, PutPayload::from(bytes)).await.map(|_| ()).map_err(self.failed("write", file))
    }

    /// Reads a file of at most so many bytes; `None` if it is not there.
    ///
    /// # Errors
    /// [`BackupError::Store`], and [`BackupError::Unreadable`] when it is larger.
    pub async fn read(&self, file: &str, most: usize) -> Result<Option<Vec<u8>>, BackupError> {
        let (inner, path) = self.file(file)?;
        let found = match inner.get(&path).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(self.failed("read", file)(error)),
        };
        if found.meta.size > most as u64 {
            return Err(BackupError::Unreadable { file: file.to_owned(), why: format!("it has over {most} bytes") });
        }
        found.bytes().await.map(|bytes| Some(bytes.to_vec())).map_err(self.failed("read", file))
    }

    /// A file, to be read piece by piece.
    ///
    /// # Errors
    /// [`BackupError::Store`] when it cannot be opened, and later when it cannot be read.
    pub async fn pieces(&self, file: &str) -> Result<BoxStream<'static, Result<Bytes, BackupError>>, BackupError> {
        let (inner, path) = self.file(file)?;
        let found = inner.get(&path).await.map_err(self.failed("read", file))?;
        let (store, file) = (self.clone(), file.to_owned());
        Ok(found.into_stream().map_err(move |error| store.failed("read", &file)(error)).boxed())
    }

    /// Every file below this folder, relative to it.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub async fn files(&self) -> Result<Vec<String>, BackupError> {
        let mut listed = self.inner.list(Some(&self.root)).take(MOST_FILES);
        let mut files = Vec::new();
        while let Some(found) = listed.try_next().await.map_err(self.failed("list", "the files"))? {
            if let Some(parts) = found.location.prefix_match(&self.root) {
                files.push(parts.map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/"));
            }
        }
        Ok(files)
    }

    /// The manifest in this folder, if there is one.
    ///
    /// # Errors
    /// [`BackupError`] when it cannot be read, or is of another version.
    pub async fn manifest(&self) -> Result<Option<Manifest>, BackupError> {
        let Some(bytes) = self.read(FILE, MOST_BYTES).await? else { return Ok(None) };
        let unreadable = |why: String| BackupError::Unreadable { file: FILE.to_owned(), why };
        let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| unreadable(error.to_string()))?;
        if manifest.version != VERSION {
            return Err(unreadable(format!("it is of version {}, and this program knows {VERSION}", manifest.version)));
        }
        Ok(Some(manifest))
    }

    /// The folder of this store on a volume; `None` for a bucket.
    fn on_disk(&self) -> Option<PathBuf> {
        let parts = self.root.parts();
        self.volume.as_ref().map(|volume| parts.fold(volume.clone(), |path, part| path.join(part.as_ref())))
    }

    /// The backups on a volume that were cut off. Not all that lies in them is a file to the library: what it was writing when
    /// the process was killed has a name with `#` that it never tells, and takes as much room.
    async fn cut_off_on_disk(&self) -> Result<Vec<String>, BackupError> {
        let Some(here) = self.on_disk() else { return Ok(Vec::new()) };
        let failed = |error: std::io::Error| self.disk_failed("list", "the folders", &error);
        let mut found = match tokio::fs::read_dir(&here).await {
            Ok(found) => found,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut names = Vec::new();
        while let Some(entry) = found.next_entry().await.map_err(failed)? {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let ours = begun(&name).is_some() && entry.file_type().await.map_err(failed)?.is_dir();
            if ours && !tokio::fs::try_exists(here.join(&name).join(FILE)).await.map_err(failed)? {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn disk_failed(&self, verb: &'static str, what: &str, error: &std::io::Error) -> BackupError {
        BackupError::Store { verb, what: what.to_owned(), place: self.shown.clone(), said: told(error) }
    }

    /// What is there: the good backups, and the last one of them.
    ///
    /// # Errors
    /// [`BackupError`] when it cannot be told.
    pub async fn look(&self) -> Result<Backups, BackupError> {
        let (good, _) = sorted(&self.files().await?);
        let Some((at, name)) = good.last() else { return Ok(Backups::default()) };
        let manifest = self.folder(name)?.manifest().await?;
        let manifest = manifest.ok_or_else(|| BackupError::NoBackup(format!("{}/{name}", self.shown)))?;
        Ok(Backups {
            last: Some(Good { name: name.clone(), at: *at, documents: manifest.documents(), bytes: manifest.bytes() }),
            count: u32::try_from(good.len()).unwrap_or(u32::MAX),
            unusable: None,
        })
    }

    /// Lets go of what is not kept: good ones beyond number and age, and whatever was cut off. The last good one stays.
    ///
    /// # Errors
    /// [`BackupError::Store`].
    pub async fn clean(&self, keep: Keep, now: Timestamp) -> Result<usize, BackupError> {
        let files = self.files().await?;
        if files.len() >= MOST_FILES {
            // A manifest that is not among them would make a good backup pass for one that was cut off.
            return Err(BackupError::TooLarge {
                what: format!("over {MOST_FILES} files, of which nothing is deleted"),
            });
        }
        let mut goes = not_kept(&files, keep, now);
        goes.extend(self.cut_off_on_disk().await?);
        for name in &goes {
            // The manifest first: what is half gone must not pass for a backup.
            let manifest = format!("{name}/{FILE}");
            let of_it = files.iter().filter(|file| file.split('/').next() == Some(name));
            for file in std::iter::once(&manifest).filter(|file| files.contains(file)).chain(of_it) {
                let (inner, path) = self.file(file)?;
                match inner.delete(&path).await {
                    Ok(()) | Err(object_store::Error::NotFound { .. }) => {}
                    Err(error) => return Err(self.failed("delete", file)(error)),
                }
            }
            if let Some(here) = self.on_disk() {
                match tokio::fs::remove_dir_all(here.join(name)).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    Err(error) => return Err(self.disk_failed("delete", name, &error)),
                }
            }
        }
        Ok(goes.len())
    }
}

/// Why a place of storage failed, always in the same words for the same reason: the innermost cause, and of an answer its status,
/// its code and its message. The library tells times and numbers of requests as well, and those would change a condition at each
/// look.
pub(super) fn told(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    let text = cause.to_string();
    let (head, body) = text.split_once(": <").unwrap_or((&text, ""));
    let tagged = |name: &str| {
        let rest = body.split_once(&format!("<{name}>"))?.1;
        rest.split_once(&format!("</{name}>")).map(|(text, _)| format!(": {text}"))
    };
    let head = head.trim_start_matches("Server returned non-2xx status code: ");
    let words = [Some(head.to_owned()), tagged("Code"), tagged("Message")];
    sanitize(words.into_iter().flatten().collect::<String>().trim_end_matches('.').as_bytes(), 300)
}

/// The name of a backup that begins now.
pub fn name(begun: Timestamp) -> String {
    begun.strftime(NAMED).to_string()
}

fn begun(name: &str) -> Option<Timestamp> {
    let at = jiff::civil::DateTime::strptime(NAMED, name).ok()?;
    at.to_zoned(jiff::tz::TimeZone::UTC).ok().map(|zoned| zoned.timestamp())
}

/// The good backups, oldest first, and the names of those that were cut off. What is not named like a backup is nobody's
/// business here, and stays.
fn sorted(files: &[String]) -> (Vec<(Timestamp, String)>, BTreeSet<String>) {
    let mut names: BTreeMap<String, bool> = BTreeMap::new();
    for file in files {
        let Some((name, rest)) = file.split_once('/') else { continue };
        if begun(name).is_some() {
            *names.entry(name.to_owned()).or_default() |= rest == FILE;
        }
    }
    let mut good = Vec::new();
    let mut cut_off = BTreeSet::new();
    for (name, whole) in names {
        match begun(&name) {
            Some(at) if whole => good.push((at, name)),
            _ => {
                cut_off.insert(name);
            }
        }
    }
    good.sort();
    (good, cut_off)
}

fn not_kept(files: &[String], keep: Keep, now: Timestamp) -> BTreeSet<String> {
    let (good, mut goes) = sorted(files);
    let age = keep.age.and_then(|age| SignedDuration::try_from(age).ok());
    for (at_most, (at, name)) in good.iter().rev().enumerate().skip(1) {
        let too_many = at_most >= keep.number as usize;
        let too_old = age.is_some_and(|age| now.duration_since(*at) > age);
        if too_many || too_old {
            goes.insert(name.clone());
        }
    }
    goes
}

/// The entry without which the library would go and ask whoever tells this machine its own identity.
fn keys_missing(url: &str, entries: &BTreeMap<&str, &str>) -> Option<&'static str> {
    let needed: &[&'static str] = if url.starts_with("s3:") {
        &["aws_access_key_id", "aws_secret_access_key"]
    } else {
        &["google_service_account_key"]
    };
    needed.iter().find(|name| entries.get(**name).is_none_or(|value| value.trim().is_empty())).copied()
}

/// A bucket, with what it takes to use it by the names of [`OPTIONS`] and [`AUTHORITIES`].
fn open(url: &str, mut entries: BTreeMap<&str, &str>) -> Result<(Arc<dyn ObjectStore>, Path), BackupError> {
    let wrong = |why: &str| BackupError::Place(format!("{} cannot be used: {why}", sanitize(url.as_bytes(), 200)));
    let parsed = reqwest::Url::parse(url).map_err(|error| wrong(&error.to_string()))?;
    if !parsed.username().is_empty() || parsed.password().is_some() {
        return Err(wrong("what it takes to log in belongs into the Secret"));
    }
    let mut client = ClientOptions::new();
    if let Some(authorities) = entries.remove(AUTHORITIES) {
        let certificates = Certificate::from_pem_bundle(authorities.as_bytes()).unwrap_or_default();
        if certificates.is_empty() {
            return Err(wrong(&format!("the entry {AUTHORITIES} of its Secret holds no certificate in PEM")));
        }
        client = certificates.into_iter().fold(client, ClientOptions::with_root_certificate);
    }
    let retry = RetryConfig { retry_timeout: ASKED_AGAIN_FOR, ..RetryConfig::default() };
    // What the library says of an option may repeat it, so it is not shown.
    let incomplete = |_: object_store::Error| wrong("its options are wrong or incomplete");
    let unknown = |name: &str| wrong(&format!("{name} is not an option of this kind of bucket"));
    let inner: Arc<dyn ObjectStore> = match parsed.scheme() {
        "s3" => {
            let mut builder = AmazonS3Builder::new().with_url(url).with_retry(retry).with_client_options(client);
            for (name, value) in entries {
                builder = builder.with_config(name.parse().map_err(|_| unknown(name))?, value);
            }
            Arc::new(builder.build().map_err(incomplete)?)
        }
        "gs" => {
            let mut builder =
                GoogleCloudStorageBuilder::new().with_url(url).with_retry(retry).with_client_options(client);
            for (name, value) in entries {
                builder = builder.with_config(name.parse().map_err(|_| unknown(name))?, value);
            }
            Arc::new(builder.build().map_err(incomplete)?)
        }
        _ => return Err(wrong("write s3://BUCKET/FOLDER or gs://BUCKET/FOLDER")),
    };
    let root = Path::from_url_path(parsed.path()).map_err(|error| wrong(&error.to_string()))?;
    Ok((inner, root))
}

/// A path of parts that are each checked by the library: none can be `..`.
fn parsed(parts: &[&str]) -> Result<Path, BackupError> {
    let whole = parts.iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join("/");
    Path::parse(&whole).map_err(|error| BackupError::Place(sanitize(error.to_string().as_bytes(), 200)))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test that panics is a test that fails")]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn at(text: &str) -> Timestamp {
        text.parse().unwrap()
    }

    #[test]
    fn a_name_tells_its_time() {
        let now = at("2026-05-01T12:00:03Z");
        assert_eq!(name(now), "20260501T120003Z");
        assert_eq!(begun("20260501T120003Z"), Some(now));
        for other in ["", "20260501", "..", "20269901T120003Z", "notes"] {
            assert_eq!(begun(other), None, "{other}");
        }
    }

    #[test]
    fn the_last_good_one_stays_whatever_is_asked() {
        let files = files(&[
            "20260101T000000Z/binder-manifest.json",
            "20260102T000000Z/binder-manifest.json",
            "20260103T000000Z/binder/builds.bson",
            "notes/read.me",
            "read.me",
        ]);
        let keep = |number, age| Keep { number, age };
        let goes = |keep| not_kept(&files, keep, at("2026-06-01T00:00:00Z")).into_iter().collect::<Vec<_>>();
        assert_eq!(goes(keep(7, None)), ["20260103T000000Z"], "cut off");
        assert_eq!(goes(keep(1, None)), ["20260101T000000Z", "20260103T000000Z"]);
        assert_eq!(goes(keep(0, None)), ["20260101T000000Z", "20260103T000000Z"]);
        assert_eq!(goes(keep(7, Some(Duration::from_secs(1)))), ["20260101T000000Z", "20260103T000000Z"]);
    }

    fn on(volume: Option<&std::path::Path>) -> Means<'_> {
        Means { volume, ambient_identity: false }
    }

    #[test]
    fn a_bucket_without_keys_is_not_used_with_the_operators_own_identity() {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let described = |url: &str, entries: &[(&str, &str)], ambient_identity| {
            let bucket = binder_crds::desired::Bucket { url: url.into(), ..Default::default() };
            let place = BackupPlace { directory: None, bucket: Some(bucket) };
            let secret = entries.iter().map(|(name, value)| ((*name).to_owned(), SecretString::from(*value))).collect();
            Store::described(&place, Means { volume: None, ambient_identity }, "team", "h", &secret)
                .map(drop)
                .map_err(|error| error.to_string())
        };
        let region = ("aws_region", "eu-central-1");
        for entries in [
            &[region][..],
            &[region, ("aws_access_key_id", "a")],
            &[region, ("aws_access_key_id", "a"), ("aws_secret_access_key", " ")],
        ] {
            let said = described("s3://b/c", entries, false).unwrap_err();
            assert!(said.contains("has no entry aws_"), "{said}");
        }
        assert!(described("gs://b/c", &[], false).unwrap_err().contains("google_service_account_key"));
        assert_eq!(
            described("s3://b/c", &[region, ("aws_access_key_id", "a"), ("aws_secret_access_key", "b")], false),
            Ok(())
        );
        assert_eq!(described("s3://b/c", &[region], true), Ok(()), "where the administrator allows it");
    }

    #[tokio::test]
    async fn a_directory_is_below_the_volume_and_the_namespace() {
        let volume = tempfile::tempdir().unwrap();
        let place = BackupPlace { directory: Some("binder".into()), bucket: None };
        let none = BTreeMap::new();
        let store = Store::described(&place, on(Some(volume.path())), "team", "binder-services", &none).unwrap();
        store.folder("20260101T000000Z").unwrap().write("a.txt", b"x".to_vec()).await.unwrap();
        assert!(volume.path().join("team/binder/binder-services/20260101T000000Z/a.txt").exists());
        assert_eq!(store.look().await.unwrap(), Backups::default(), "no manifest, no backup");
        assert_eq!(store.clean(Keep { number: 7, age: None }, Timestamp::now()).await.unwrap(), 1);
        assert_eq!(store.files().await.unwrap(), Vec::<String>::new());
        let outside = BackupPlace { directory: Some("../etc".into()), bucket: None };
        assert!(Store::described(&outside, on(Some(volume.path())), "team", "h", &none).is_err());
        let said = Store::described(&place, on(None), "team", "h", &none).unwrap_err().to_string();
        assert!(said.contains("backups.volume"), "{said}");
    }

    #[tokio::test]
    async fn what_was_cut_off_leaves_no_byte_behind() {
        let volume = tempfile::tempdir().unwrap();
        let place = BackupPlace { directory: Some("binder".into()), bucket: None };
        let store = Store::described(&place, on(Some(volume.path())), "team", "h", &BTreeMap::new()).unwrap();
        let keep = Keep { number: 7, age: None };
        assert_eq!(store.clean(keep, Timestamp::now()).await.unwrap(), 0, "where nothing was ever written");
        let good = store.folder("20260101T000000Z").unwrap();
        good.write("binder/builds.bson", b"x".to_vec()).await.unwrap();
        good.write(FILE, b"{}".to_vec()).await.unwrap();
        // As a process leaves it that was killed in the middle of a large collection, twice.
        for name in ["20260102T000000Z", "20260103T000000Z"] {
            let cut_off = store.folder(name).unwrap();
            let (inner, path) = cut_off.file("binder/builds.bson").unwrap();
            let mut upload = inner.put_multipart(&path).await.unwrap();
            upload.put_part(PutPayload::from(vec![b'x'; 1 << 20])).await.unwrap();
            std::mem::forget(upload);
        }
        store.folder("notes").unwrap().write("read.me", b"x".to_vec()).await.unwrap();
        assert_eq!(store.clean(keep, Timestamp::now()).await.unwrap(), 2);
        let here = volume.path().join("team/binder/h");
        let mut left: Vec<_> = std::fs::read_dir(here).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["20260101T000000Z", "notes"]);
        assert!(good.read("binder/builds.bson", 10).await.unwrap().is_some());
    }

    /// An error with its cause.
    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Layer(&'static str, #[source] Option<Box<Layer>>);

    #[test]
    fn a_failure_is_told_by_its_cause_and_without_what_changes() {
        let refused = "Server returned non-2xx status code: 403 Forbidden: <?xml version=\"1.0\"?>\n<Error>\
            <Code>SignatureDoesNotMatch</Code><Message>It does not match.</Message><RequestId>83</RequestId></Error>";
        for (cause, words) in [
            ("Connection refused (os error 111)", "Connection refused (os error 111)"),
            (refused, "403 Forbidden: SignatureDoesNotMatch: It does not match"),
            (
                "Server returned non-2xx status code: 503 Service Unavailable: <html>3.2 s</html>",
                "503 Service Unavailable",
            ),
        ] {
            let error =
                Layer("Error performing GET in 3.83645349s, after 10 retries", Some(Box::new(Layer(cause, None))));
            assert_eq!(told(&error), words);
        }
    }

    fn refused(url: &str, name: &str, value: &str) -> String {
        let bucket = binder_crds::desired::Bucket { url: url.into(), ..Default::default() };
        let place = BackupPlace { directory: None, bucket: Some(bucket) };
        let secret = BTreeMap::from([(name.to_owned(), SecretString::from(value))]);
        Store::described(&place, Means { volume: None, ambient_identity: true }, "team", "h", &secret)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn a_secret_with_a_setting_of_its_own_is_refused_and_not_shown() {
        for (url, name, words) in [
            ("s3://b/c", "aws_allow_http", "has an entry aws_allow_http that is not known"),
            ("s3://b/c", "ca.crt", "holds no certificate in PEM"),
            (
                "s3://b/c",
                "google_service_account_key",
                "google_service_account_key is not an option of this kind of bucket",
            ),
            ("gs://b/c", "aws_region", "aws_region is not an option of this kind of bucket"),
            ("gs://b/c", "google_service_account_key", "its options are wrong or incomplete"),
        ] {
            let said = refused(url, name, "s3cr3t");
            assert!(said.contains(words) && !said.contains("s3cr3t"), "{said}");
        }
    }
}
