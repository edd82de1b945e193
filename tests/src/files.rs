//! Files, with errors that name the path.
//!
//! Knows nothing of what the files mean.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};

/// Something about a file did not work.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} `{}`", path.display())]
pub struct FileError {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: std::io::Error,
}

impl FileError {
    /// Whether the file is simply not there.
    pub fn is_missing(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }

    /// For a caller that does something to a file by other means than this module.
    pub fn new(doing: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self { doing, path: path.to_owned(), source }
    }
}

/// The text of a file.
///
/// # Errors
/// It cannot be read, or is not UTF-8.
pub fn read(path: &Path) -> Result<String, FileError> {
    std::fs::read_to_string(path).map_err(|source| FileError::new("read", path, source))
}

/// Makes a directory and those above it; one that exists is fine.
///
/// # Errors
/// It cannot be made.
pub fn make_dir(path: &Path) -> Result<(), FileError> {
    std::fs::create_dir_all(path).map_err(|source| FileError::new("make the directory", path, source))
}

/// Writes a file with its mode, and the directories above it.
///
/// # Errors
/// It cannot be written.
pub fn write(path: &Path, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), FileError> {
    if let Some(parent) = path.parent() {
        make_dir(parent)?;
    }
    // The mode is there before the contents are: a secret is never readable, not even for a moment.
    let mut file = std::fs::OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(file.write(true).create(true).truncate(true), mode);
    let mut file = file.open(path).map_err(|source| FileError::new("open", path, source))?;
    file.set_permissions(std::fs::Permissions::from_mode(mode))
        .map_err(|source| FileError::new("set the mode of", path, source))?;
    std::io::Write::write_all(&mut file, contents.as_ref()).map_err(|source| FileError::new("write", path, source))
}

/// Writes a file so that a reader sees the old contents or the new, never a part.
///
/// # Errors
/// It cannot be written or moved into place.
pub fn replace(path: &Path, contents: impl AsRef<[u8]>, mode: u32) -> Result<(), FileError> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    write(&beside, contents, mode)?;
    std::fs::rename(&beside, path).map_err(|source| FileError::new("replace", path, source))
}

/// 32 hexadecimal digits from the kernel: a key that nobody guesses.
///
/// # Errors
/// The kernel gives none.
pub fn random_hex() -> Result<String, FileError> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 16];
    let read = std::fs::File::open(path).and_then(|mut file| std::io::Read::read_exact(&mut file, &mut bytes));
    read.map_err(|source| FileError::new("read", path, source))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Gives a file or directory, not what is in it, to a user and group.
///
/// # Errors
/// It is not there, or this process may not.
pub fn give(path: &Path, uid: u32, gid: u32) -> Result<(), FileError> {
    chown(path, Some(uid), Some(gid)).map_err(|source| FileError::new("change the owner of", path, source))
}

/// Removes a file or a whole directory; one that is not there is fine.
///
/// # Errors
/// It is there and cannot be removed.
pub fn remove(path: &Path) -> Result<(), FileError> {
    let gone = match std::fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => std::fs::remove_dir_all(path),
        Ok(_) => std::fs::remove_file(path),
        Err(error) => Err(error),
    };
    match gone {
        Err(source) if source.kind() != std::io::ErrorKind::NotFound => Err(FileError::new("remove", path, source)),
        _ => Ok(()),
    }
}
