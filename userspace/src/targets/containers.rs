//! Names of containers, as their engines keep them in files: no daemon is asked.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// The largest file that is read for a name. Docker's are some kilobytes; podman keeps all containers in one, about a
/// kilobyte each.
const MAX_FILE_BYTES: u64 = 4 << 20;

/// Entries of the kubelet's folder of logs that are looked at; a node runs 110 pods by default.
const MAX_LOG_ENTRIES: usize = 10_000;

/// Where the engines keep their files.
pub struct Containers {
    root: PathBuf,
}

#[derive(Deserialize)]
struct Docker {
    #[serde(rename = "Name")]
    name: String,
}

#[derive(Deserialize)]
struct Podman {
    id: String,
    #[serde(default)]
    names: Vec<String>,
}

impl Containers {
    /// Looks below `root`, which is `/` outside of tests.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The name of the container with this `id` of 64 hexadecimal digits: docker's, podman's, or for Kubernetes
    /// `pod_container` (neither of the two can hold an underscore). `None` where no file tells.
    #[must_use]
    pub fn name(&self, id: &str) -> Option<String> {
        self.docker(id)
            .or_else(|| self.kubernetes(id))
            .or_else(|| self.podman(id))
            .filter(|name| !name.is_empty())
    }

    fn read(&self, path: &Path) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.root.join(path)).ok()?.take(MAX_FILE_BYTES).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn docker(&self, id: &str) -> Option<String> {
        let config = self.read(&Path::new("var/lib/docker/containers").join(id).join("config.v2.json"))?;
        let name = serde_json::from_slice::<Docker>(&config).ok()?.name;
        // Docker writes it with a slash before.
        Some(name.trim_start_matches('/').to_owned())
    }

    fn podman(&self, id: &str) -> Option<String> {
        let all = self.read(Path::new("var/lib/containers/storage/overlay-containers/containers.json"))?;
        let all = serde_json::from_slice::<Vec<Podman>>(&all).ok()?;
        all.into_iter().find(|container| container.id == id)?.names.into_iter().next()
    }

    /// The kubelet makes a link for each container: `POD_NAMESPACE_CONTAINER-ID.log`.
    fn kubernetes(&self, id: &str) -> Option<String> {
        let links = std::fs::read_dir(self.root.join("var/log/containers")).ok()?;
        links.flatten().take(MAX_LOG_ENTRIES).find_map(|link| {
            let name = link.file_name();
            let stem = name.to_str()?.strip_suffix(".log")?.strip_suffix(id)?.strip_suffix('-')?;
            let mut parts = stem.splitn(3, '_');
            let (pod, _namespace, container) = (parts.next()?, parts.next()?, parts.next()?);
            Some(format!("{pod}_{container}"))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_from_the_engines_files() {
        let root = tempfile::tempdir().expect("a folder");
        let id = |digit: &str| digit.repeat(64);
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("folders");
            std::fs::write(path, text).expect("a file");
        };
        write(
            &format!("var/lib/docker/containers/{}/config.v2.json", id("a")),
            r#"{"ID":"x","Name":"/web"}"#,
        );
        write(&format!("var/lib/docker/containers/{}/config.v2.json", id("b")), r#"{"Name": 7"#);
        write(&format!("var/log/containers/api-0_shop_server-{}.log", id("c")), "");
        write(
            "var/lib/containers/storage/overlay-containers/containers.json",
            &format!(r#"[{{"id":"{}","names":["db"]}},{{"id":"{}"}}]"#, id("d"), id("e")),
        );
        let containers = Containers::new(root.path());
        let names = ["a", "b", "c", "d", "e", "f"].map(|digit| containers.name(&id(digit)));
        assert_eq!(
            names.each_ref().map(Option::as_deref),
            [Some("web"), None, Some("api-0_server"), Some("db"), None, None]
        );
        assert_eq!(Containers::new("/no/such/folder").name(&id("a")), None);
    }
}
