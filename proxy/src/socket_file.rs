//! The files of Unix sockets that we listen on: gone when we are.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// The file that a socket was bound to. Dropping it removes the file, unless somebody else has put
/// another in its place by then: a successor that listens there already.
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Of a socket that was just bound to `path`.
    pub fn of(path: &Path) -> SocketFile {
        SocketFile { path: path.to_owned(), identity: identity(path) }
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path) == self.identity {
            // Gone in between is as good.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    let file = fs::symlink_metadata(path).ok()?;
    Some((file.dev(), file.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removes_what_is_its_own() {
        let path = std::env::temp_dir().join(format!("ringside-file-{}", std::process::id()));
        fs::write(&path, "").unwrap();
        drop(SocketFile::of(&path));
        assert!(!path.exists());

        fs::write(&path, "").unwrap();
        let file = SocketFile::of(&path);
        let other = path.with_extension("new");
        fs::write(&other, "a successor's").unwrap();
        fs::rename(&other, &path).unwrap();
        drop(file);
        assert_eq!(fs::read_to_string(&path).unwrap(), "a successor's");
        fs::remove_file(&path).unwrap();
        drop(SocketFile::of(&path));
    }
}
