//! Where things lie: the checkout, the folder for builds, the cache that outlives a checkout.

use std::fs;
use std::path::{Path, PathBuf};

use crate::failure::{Failure, Result};

/// The checkout's root.
pub(crate) fn root() -> PathBuf {
    // cargo sets it for `cargo xtask`; the compiled-in value serves a direct run of the binary.
    let manifest =
        std::env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&manifest).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// The folder that everything built goes to; never part of a commit.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), |path| root().join(path))
}

/// The folder for what is dear to get and does not depend on the checkout: tools, kernels.
pub(crate) fn cache() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME")
        .filter(|path| Path::new(path).is_absolute())
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    base.map(|path| path.join("hostscope")).ok_or_else(|| {
        Failure::new(
            "neither XDG_CACHE_HOME nor HOME is set, so there is no place for a cache",
            "set one of them",
        )
    })
}

/// Every file below `folder`, sorted by path. Folders named `target` are builds, those with a dot are tools': left out.
pub(crate) fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|error| Failure::file("list", &folder, &error))?;
        for entry in entries {
            let path = entry.map_err(|error| Failure::file("list", &folder, &error))?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if name != "target" && !name.starts_with('.') {
                    folders.push(path);
                }
            } else {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text of a file.
pub(crate) fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).map_err(|error| Failure::file("read", path, &error))
}

/// The bytes of a file.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Failure::file("read", path, &error))
}

/// Writes a file, making its folder first.
pub(crate) fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(folder) = path.parent() {
        make_folder(folder)?;
    }
    fs::write(path, bytes).map_err(|error| Failure::file("write", path, &error))
}

/// Makes a folder and those above it.
pub(crate) fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Failure::file("make the folder", path, &error))
}

/// Deletes a folder and everything in it, where there is one.
pub(crate) fn remove_folder(path: &Path) -> Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::file("delete", path, &error))
        }
        _ => Ok(()),
    }
}

/// `path` as seen from the root, with forward slashes: for messages and hashes.
pub(crate) fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}
