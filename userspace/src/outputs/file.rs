//! Writes a file whole or not at all, and says beforehand whether it can be written.
//!
//! A file comes to be under a temporary name in the folder where it shall lie, and is renamed once it is complete and
//! on the disk. Through sudo it is given to the user who called sudo, who otherwise could not delete it.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};
use crate::profile::Profile;

use super::{STDOUT, for_path};

/// Writes `profile` to `path` in the format that its extension chooses, or folded stacks to standard output for `-`.
///
/// # Errors
/// Wrong usage for an unknown extension; else what keeps the file from being written. Then no file is left, and one
/// that was there before is unharmed.
pub fn write_file(profile: &Profile, path: &Path) -> Result<()> {
    let output = for_path(path)?;
    if path.as_os_str() != STDOUT {
        return write_whole(path, &mut |to| output.write(profile, to));
    }
    let mut stdout = BufWriter::new(io::stdout().lock());
    match output.write(profile, &mut stdout).and_then(|()| stdout.flush()) {
        // The reader (`head`) has seen enough.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => {
            Err(Error::failed(format!("cannot write to standard output: {error}"), "check where it goes"))
        }
        Ok(()) => Ok(()),
    }
}

/// Whether [`write_file`] will be able to write `path`, for asking before a long capture begins: an empty file is
/// made in the folder and removed again.
///
/// # Errors
/// Those of [`write_file`], as far as they can be known.
pub fn check_writable(path: &Path) -> Result<()> {
    for_path(path)?;
    if path.as_os_str() == STDOUT {
        return Ok(());
    }
    create_beside(path).map(drop).map_err(|error| explain(path, &error))
}

/// Writes the file at `path` by `write`, whole or not at all.
pub(super) fn write_whole(
    path: &Path,
    write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    try_write_whole(path, write).map_err(|error| explain(path, &error))
}

fn try_write_whole(path: &Path, write: &mut dyn FnMut(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let (temporary, file) = create_beside(path)?;
    let mut buffered = BufWriter::with_capacity(64 << 10, file);
    write(&mut buffered)?;
    let file = buffered.into_inner().map_err(io::IntoInnerError::into_error)?;
    if let Some((user, group)) = sudo_user(std::env::var_os("SUDO_UID"), std::env::var_os("SUDO_GID")) {
        // Some filesystems (vfat, NFS without root's rights) know no owners: the file is as good without.
        let _ = fchown(&file, Some(user), Some(group));
    }
    // Disks may report that they are full only now, and a rename that reaches the disk before the data would leave
    // an empty file behind a power failure.
    file.sync_data()?;
    fs::rename(&temporary.0, path)
}

/// A file that is removed when this is dropped, unless it has been renamed.
struct Temporary(PathBuf);

impl Drop for Temporary {
    fn drop(&mut self) {
        // After the rename there is none, and nobody could do anything about another failure.
        let _ = fs::remove_file(&self.0);
    }
}

/// Makes an empty file in the folder of `path`, after checking that `path` can be put in its place.
fn create_beside(path: &Path) -> io::Result<(Temporary, File)> {
    static COUNTER: AtomicU32 = AtomicU32::new(0);
    let folder = folder_of(path);
    if path.is_dir() {
        return Err(ErrorKind::IsADirectory.into());
    }
    if is_another_users(path, folder)? {
        return Err(ErrorKind::AlreadyExists.into());
    }
    // Short, since a name as long as the filesystem allows must not grow; unique among processes and threads.
    let number = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = folder.join(format!(".hostscope-{}-{number}.tmp", std::process::id()));
    // Pids come round again: what an earlier process of this one left behind when it was killed is in the way.
    let _ = fs::remove_file(&temporary);
    // `create_new` follows no link that somebody has laid there.
    let file = OpenOptions::new().write(true).create_new(true).open(&temporary)?;
    Ok((Temporary(temporary), file))
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Whether there is a file at `path` that its folder's sticky bit (as `/tmp` has) keeps this user from replacing.
fn is_another_users(path: &Path, folder: &Path) -> io::Result<bool> {
    let user = rustix::process::geteuid().as_raw();
    let folder = fs::metadata(folder)?;
    let sticky = folder.mode() & 0o1000 != 0;
    if user == 0 || !sticky || folder.uid() == user {
        return Ok(false);
    }
    Ok(fs::symlink_metadata(path).is_ok_and(|file| file.uid() != user))
}

/// The user and group who called sudo, by the values of `SUDO_UID` and `SUDO_GID`; none where this is not root.
fn sudo_user(user: Option<OsString>, group: Option<OsString>) -> Option<(u32, u32)> {
    let number = |text: Option<OsString>| text?.to_str()?.parse().ok();
    rustix::process::geteuid().is_root().then_some((number(user)?, number(group)?))
}

/// Why `path` could not be written, and what to do.
fn explain(path: &Path, error: &io::Error) -> Error {
    let folder = folder_of(path).display();
    let name = path.file_name().unwrap_or_default().display();
    let (why, mend) = match error.kind() {
        ErrorKind::NotFound => {
            (format!("the folder {folder} does not exist"), format!("make it: mkdir -p '{folder}'"))
        }
        ErrorKind::NotADirectory => {
            (format!("{folder} is not a folder"), "write into a folder that exists".to_owned())
        }
        ErrorKind::IsADirectory => (
            "it is a folder".to_owned(),
            format!("give another name, or remove it: rmdir '{}'", path.display()),
        ),
        ErrorKind::AlreadyExists => {
            (format!("there is such a file of another user in {folder}"), "give another name".to_owned())
        }
        ErrorKind::PermissionDenied => (
            format!("this user may not write into the folder {folder}"),
            format!("choose another folder, such as -o /tmp/{name}, or change its permissions"),
        ),
        ErrorKind::ReadOnlyFilesystem => (
            format!("the filesystem of {folder} is read-only"),
            format!("choose another folder, such as -o /tmp/{name}"),
        ),
        ErrorKind::StorageFull => (
            format!("the disk that holds {folder} is full"),
            format!("free some space (df -h '{folder}' shows it) or choose another folder"),
        ),
        ErrorKind::QuotaExceeded => (
            format!("this user's quota on the disk that holds {folder} is used up"),
            "delete some files or choose another folder".to_owned(),
        ),
        _ => (error.to_string(), "choose another path".to_owned()),
    };
    Error::failed(format!("cannot write {}: {why}", path.display()), mend)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }

    #[test]
    fn a_file_is_written_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.json");
        fs::write(&path, "old").unwrap();
        let failure = write_whole(&path, &mut |to| {
            to.write_all(&vec![b'x'; 200_000])?;
            Err(io::Error::from_raw_os_error(libc::ENOSPC))
        });
        assert!(failure.unwrap_err().what.ends_with("is full"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(files(folder.path()), ["out.json"]);

        write_file(&Profile::empty(), &path).unwrap();
        assert!(fs::read_to_string(&path).unwrap().starts_with(r#"{"format":"#));
        assert_eq!(files(folder.path()), ["out.json"]);
    }

    #[test]
    fn asking_beforehand_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        check_writable(&folder.path().join("a.svg")).unwrap();
        assert!(files(folder.path()).is_empty());
        check_writable(Path::new("-")).unwrap();
        assert_eq!(check_writable(Path::new("a.html")).unwrap_err().class.exit_status(), 2);
    }

    #[test]
    fn each_cause_has_its_message_before_and_at_the_end() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("d.svg")).unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        for (name, why) in [
            ("none/a.svg", "does not exist"),
            ("file/a.svg", "is not a folder"),
            ("d.svg", "it is a folder"),
            // Nobody can write here, not even root.
            ("/proc/self/a.svg", "/proc/self"),
        ] {
            let path = folder.path().join(name);
            for error in
                [check_writable(&path).unwrap_err(), write_file(&Profile::empty(), &path).unwrap_err()]
            {
                assert!(error.what.contains(why) && error.what.contains(name), "{error}");
                assert_eq!(error.class.exit_status(), 1);
            }
        }
    }

    #[test]
    fn every_errno_that_users_meet_is_told_apart() {
        let errnos = [
            libc::ENOENT,
            libc::ENOTDIR,
            libc::EISDIR,
            libc::EACCES,
            libc::EROFS,
            libc::ENOSPC,
            libc::EDQUOT,
            libc::EIO,
        ];
        let messages: std::collections::HashSet<_> = errnos
            .iter()
            .map(|&errno| explain(Path::new("/x/a.svg"), &io::Error::from_raw_os_error(errno)).what)
            .collect();
        assert_eq!(messages.len(), errnos.len(), "{messages:?}");
        assert!(messages.iter().all(|message| message.starts_with("cannot write /x/a.svg: ")));
    }

    #[test]
    fn a_name_as_long_as_can_be_works() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(format!("{}.folded", "n".repeat(248)));
        write_file(&Profile::empty(), &path).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"");
    }

    #[test]
    fn the_user_who_called_sudo_is_known_to_root_alone() {
        let expected = rustix::process::geteuid().is_root().then_some((1000, 1001));
        assert_eq!(sudo_user(Some("1000".into()), Some("1001".into())), expected);
        assert_eq!(sudo_user(Some("1000".into()), None), None);
        assert_eq!(sudo_user(Some("x".into()), Some("1".into())), None);
    }
}
