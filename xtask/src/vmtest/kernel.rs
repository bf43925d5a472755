//! Debian's kernels: fetched from its archive into the cache, with package lists of their own beside the machine's.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::{process, workspace};

/// A kernel that the tests can boot.
pub(super) struct Kernel {
    /// Its version as users name it.
    pub(super) name: &'static str,
    /// The Debian release whose `linux-image-cloud-amd64` it is.
    suite: &'static str,
}

/// Every kernel there is a choice of, oldest first.
const KERNELS: &[Kernel] = &[
    Kernel { name: "5.10", suite: "bullseye" },
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "6.12", suite: "trixie" },
];

/// Serves where the machine's own sources name no Debian mirror.
const DEFAULT_MIRROR: &str = "http://deb.debian.org/debian";

/// A kernel on disk.
pub(super) struct Image {
    /// The file that qemu boots.
    pub(super) file: PathBuf,
    /// What `uname -r` says in it.
    pub(super) release: String,
}

/// The kernels of these names, or all.
pub(super) fn chosen(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    let find = |name: &String| {
        KERNELS.iter().find(|kernel| kernel.name == name).ok_or_else(|| {
            let known: Vec<_> = KERNELS.iter().map(|kernel| kernel.name).collect();
            Failure::new(
                format!("there is no kernel {name} to test with"),
                format!("choose of {}", known.join(", ")),
            )
        })
    };
    names.iter().map(find).collect()
}

impl Kernel {
    /// The kernel's image, fetched where the cache has none yet.
    pub(super) fn image(&self) -> Result<Image> {
        let folder = workspace::cache()?.join("kernels").join(self.name);
        if let Some(image) = image_in(&folder) {
            return Ok(image);
        }
        eprintln!("fetching Debian {}'s kernel into {}", self.suite, folder.display());
        let work = folder.join("fetching");
        workspace::remove_folder(&work)?;
        let package = self.fetch(&work)?;
        let mend = "delete the folder and try again";
        process::run(Command::new("dpkg-deb").arg("--extract").arg(package).arg(&work), mend)?;
        let image = image_in(&work.join("boot")).ok_or_else(|| {
            Failure::new(
                format!("Debian {}'s kernel package holds no boot/vmlinuz-…", self.suite),
                "mend xtask's kernel.rs",
            )
        })?;
        let file = folder.join(image.file.file_name().unwrap_or_default());
        fs::rename(&image.file, &file).map_err(|error| Failure::file("move the kernel to", &file, &error))?;
        workspace::remove_folder(&work)?;
        Ok(Image { file, ..image })
    }

    /// Downloads the package that holds the kernel into `work`, after apt has checked signatures and hashes.
    fn fetch(&self, work: &Path) -> Result<PathBuf> {
        for folder in ["lists/partial", "cache/archives/partial"] {
            workspace::make_folder(&work.join(folder))?;
        }
        let source = format!(
            "Types: deb\nURIs: {}\nSuites: {}\nComponents: main\nArchitectures: amd64\n\
             Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n",
            mirror(),
            self.suite
        );
        workspace::write(&work.join("debian.sources"), source)?;
        workspace::write(&work.join("status"), "")?;
        let mend = "mend the network or the machine's Debian mirror; an old release may have left it";
        process::run(apt("apt-get", work).args(["--quiet", "update"]), mend)?;
        let mut show = apt("apt-cache", work);
        let text =
            process::capture(show.args(["show", "--no-all-versions", "linux-image-cloud-amd64"]), mend)?;
        let package = dependency(&text).ok_or_else(|| {
            Failure::new(
                "linux-image-cloud-amd64 depends on no linux-image-… package",
                "mend xtask's kernel.rs",
            )
        })?;
        process::run(apt("apt-get", work).args(["--quiet", "download", package]).current_dir(work), mend)?;
        let packages = workspace::files(work)?;
        let downloaded =
            packages.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "deb"));
        downloaded.ok_or_else(|| Failure::new(format!("apt-get has downloaded no {package}"), mend))
    }
}

/// apt with every folder that it writes to, and its sources, in `work`.
fn apt(program: &str, work: &Path) -> Command {
    let mut command = Command::new(program);
    let mut option = |name: &str, value: &str| {
        command.arg("--option").arg(format!("{name}={value}"));
    };
    let within = |name: &str| work.join(name).display().to_string();
    option("Dir::Etc::SourceList", &within("debian.sources"));
    option("Dir::Etc::SourceParts", "/dev/null");
    option("Dir::State", &within(""));
    option("Dir::State::Lists", &within("lists"));
    option("Dir::State::Status", &within("status"));
    option("Dir::Cache", &within("cache"));
    option("APT::Architecture", "amd64");
    option("APT::Architectures", "amd64");
    option("Acquire::Languages", "none");
    option("Acquire::IndexTargets::deb::DEP-11::DefaultEnabled", "false");
    // apt's own user may not enter the cache of another.
    option("APT::Sandbox::User", "");
    command
}

/// The Debian mirror that this machine uses.
fn mirror() -> String {
    let mut command = Command::new("apt-get");
    command.args(["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]);
    let text = process::capture(&mut command, "").unwrap_or_default();
    let mirror = text.lines().map(|uri| uri.trim_end_matches('/')).find(|uri| uri.ends_with("/debian"));
    mirror.unwrap_or(DEFAULT_MIRROR).to_owned()
}

/// The kernel image that an apt record of the metapackage depends on.
fn dependency(record: &str) -> Option<&str> {
    let depends = record.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([',', ' ']).find(|word| word.starts_with("linux-image-"))
}

fn image_in(folder: &Path) -> Option<Image> {
    let entries = fs::read_dir(folder).ok()?;
    let mut images: Vec<_> =
        entries.flatten().map(|entry| entry.path()).filter(|file| file.is_file()).collect();
    images.sort();
    let release = |file: &Path| file.file_name()?.to_str()?.strip_prefix("vmlinuz-").map(str::to_owned);
    images.into_iter().find_map(|file| release(&file).map(|release| Image { file, release }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_the_metapackage() {
        let record =
            "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-49-cloud-amd64 (= 6.1.200-1)\n";
        assert_eq!(dependency(record), Some("linux-image-6.1.0-49-cloud-amd64"));
        assert_eq!(dependency("Package: x\n"), None);
    }

    #[test]
    fn knows_its_kernels() {
        let names = |kernels: Vec<&Kernel>| kernels.iter().map(|kernel| kernel.name).collect::<Vec<_>>();
        assert_eq!(chosen(&[]).map(names).ok(), Some(vec!["5.10", "6.1", "6.12"]));
        assert_eq!(chosen(&["5.10".to_owned()]).map(names).ok(), Some(vec!["5.10"]));
        assert!(chosen(&["2.4".to_owned()]).is_err());
    }
}
