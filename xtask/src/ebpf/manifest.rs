//! `ebpf/prebuilt/manifest.json`: which sources and which toolchain gave the object beside it.

use std::fmt::{self, Write as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::failure::{Failure, Result};
use crate::workspace;

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Manifest {
    /// Over paths and contents of all sources, in the order of their paths.
    pub(super) sources_sha256: String,
    pub(super) toolchain: Versions,
    pub(super) size_bytes: usize,
    pub(super) object_sha256: String,
}

/// Everything whose version decides on the bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Versions {
    /// First line of `rustc -vV`.
    pub(super) rustc: String,
    /// The LLVM in rustc.
    pub(super) llvm: String,
    /// bpf-linker, and the LLVM that it links with.
    pub(super) bpf_linker: String,
}

impl Manifest {
    /// What the manifest of this object has to be, were it built from the sources as they are.
    pub(super) fn of(object: &[u8], toolchain: Versions) -> Result<Self> {
        let sources_sha256 = sources_hash()?;
        Ok(Self {
            sources_sha256,
            toolchain,
            size_bytes: object.len(),
            object_sha256: hexadecimal(Sha256::new_with_prefix(object)),
        })
    }

    pub(super) fn read() -> Result<Self> {
        let text = workspace::read(&path())?;
        serde_json::from_str(&text).map_err(|error| {
            Failure::new(
                format!("cannot understand ebpf/prebuilt/manifest.json: {error}"),
                "run `cargo xtask ebpf`",
            )
        })
    }

    pub(super) fn write(&self) -> Result<()> {
        let text = serde_json::to_string_pretty(self).map_err(|error| {
            Failure::new(format!("cannot write the manifest: {error}"), "mend manifest.rs")
        })?;
        workspace::write(&path(), text + "\n")
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}, LLVM {}, bpf-linker {}", self.rustc, self.llvm, self.bpf_linker)
    }
}

fn path() -> PathBuf {
    workspace::root().join("ebpf/prebuilt/manifest.json")
}

fn sources_hash() -> Result<String> {
    let root = workspace::root();
    let mut files = workspace::files(&root.join("ebpf/wire"))?;
    files.extend(workspace::files(&root.join("ebpf/programs"))?);
    let mut named = Vec::new();
    for file in files {
        named.push((workspace::relative(&file), workspace::read_bytes(&file)?));
    }
    Ok(hash_of(named))
}

/// Lengths stand before paths and contents, so that nothing can move from one into the other unseen.
fn hash_of(mut files: Vec<(String, Vec<u8>)>) -> String {
    files.sort();
    let mut hash = Sha256::new();
    for (path, content) in files {
        for bytes in [path.as_bytes(), &content] {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        }
    }
    hexadecimal(hash)
}

fn hexadecimal(hash: Sha256) -> String {
    hash.finalize().iter().fold(String::new(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, content: &str) -> (String, Vec<u8>) {
        (path.to_owned(), content.as_bytes().to_vec())
    }

    #[test]
    fn the_hash_knows_paths_and_contents_but_no_order() {
        let hash = hash_of(vec![file("a", "1"), file("b", "2")]);
        assert_eq!(hash, hash_of(vec![file("b", "2"), file("a", "1")]));
        assert_ne!(hash, hash_of(vec![file("a", "2"), file("b", "1")]));
        assert_ne!(hash_of(vec![file("ab", "c")]), hash_of(vec![file("a", "bc")]));
        assert_eq!(hash.len(), 64);
    }
}
