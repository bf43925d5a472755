//! What a cgroup's path says of whom it belongs to: a systemd unit, a container, or nobody in particular.

/// Whose a cgroup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A systemd service, by its unit's name.
    Unit(&'a [u8]),
    /// A container, by its id of 64 hexadecimal digits.
    Container(&'a str),
    /// An LXC container, by its name.
    Lxc(&'a [u8]),
}

/// One line of `/proc/PID/cgroup` (`cgroups(7)`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CgroupLine<'a> {
    /// The controllers, separated by commas; empty for version 2.
    pub controllers: &'a [u8],
    /// The path below the hierarchy's root.
    pub path: &'a [u8],
}

/// The lines of `/proc/PID/cgroup`, those passed over that are none.
pub fn lines(file: &[u8]) -> impl Iterator<Item = CgroupLine<'_>> {
    file.split(|&byte| byte == b'\n').filter_map(|line| {
        let mut fields = line.splitn(3, |&byte| byte == b':');
        let (_, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        Some(CgroupLine { controllers, path })
    })
}

/// The owner that a process's lines name: version 2 is asked first, then systemd's own hierarchy of version 1, then
/// any. With it the path of its cgroup.
#[must_use]
pub fn owner_of_process(file: &[u8]) -> Option<(Owner<'_>, &[u8])> {
    let rank = |line: &CgroupLine<'_>| match line.controllers {
        b"" => 0,
        b"name=systemd" => 1,
        _ => 2,
    };
    (0..=2)
        .find_map(|wanted| lines(file).filter(|line| rank(line) == wanted).find_map(|line| owner(line.path)))
}

/// The owner of the cgroup at `path`, and the part of the path that ends with what named it.
///
/// The deepest name counts: a container within a service's cgroup (docker's `--cgroup-parent`, containerd as a unit) is
/// the container. A scope that is no container is somebody's session or application, started by hand: its processes are
/// told apart by their programs, whatever service is above.
#[must_use]
pub fn owner(path: &[u8]) -> Option<(Owner<'_>, &[u8])> {
    let mut rest = path;
    loop {
        let slash = rest.iter().rposition(|&byte| byte == b'/');
        let component = &rest[slash.map_or(0, |slash| slash + 1)..];
        if let Some(owner) = component_owner(component) {
            return Some((owner, rest));
        }
        if component.ends_with(b".scope") && component != b"init.scope" {
            return None;
        }
        rest = &rest[..slash?];
    }
}

fn component_owner(component: &[u8]) -> Option<Owner<'_>> {
    if let Some(id) = container_id(component) {
        return Some(Owner::Container(id));
    }
    if let Some(name) = component.strip_prefix(b"lxc.payload.") {
        return Some(Owner::Lxc(name));
    }
    (component.ends_with(b".service") && component.len() > b".service".len())
        .then_some(Owner::Unit(component))
}

/// The id in the forms that are met: `<id>` (docker and kubelet with the cgroupfs driver), `docker-<id>.scope`,
/// `cri-containerd-<id>.scope`, `crio-<id>.scope`, `libpod-<id>.scope`, `…:cri-containerd:<id>`. The monitors of podman
/// and cri-o (`crio-conmon-<id>.scope`) are not the container.
fn container_id(component: &[u8]) -> Option<&str> {
    /// Docker, containerd, podman and cri-o all give 256 random bits.
    const ID_DIGITS: usize = 64;
    let stem = component.strip_suffix(b".scope").unwrap_or(component);
    let (before, id) = stem.split_at_checked(stem.len().checked_sub(ID_DIGITS)?)?;
    let is_id = id.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let is_apart = matches!(before.last(), None | Some(b'-' | b':'));
    (is_id && is_apart && !before.ends_with(b"conmon-")).then(|| std::str::from_utf8(id).ok())?
}

/// The form in which `docker ps` and `crictl ps` print an id.
#[must_use]
pub fn short_id(id: &str) -> &str {
    const SHORT_DIGITS: usize = 12;
    id.get(..SHORT_DIGITS).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn owners_are_found_in_every_known_form() {
        let container =
            |path: &str| owner(path.replace("ID", ID).as_bytes()).map(|(owner, _)| format!("{owner:?}"));
        let expected = Some(format!("{:?}", Owner::Container(ID)));
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/containerd.service/kubepods-burstable-pod12.slice:cri-containerd:ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod12.slice/cri-containerd-ID.scope",
            "/kubepods/besteffort/pod12-ab/ID",
            "/kubepods.slice/kubepods-pod12.slice/crio-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/system.slice/x.service/docker/ID/init.scope",
        ] {
            assert_eq!(container(path), expected, "{path}");
        }
        let unit = |path: &str| match owner(path.as_bytes()) {
            Some((Owner::Unit(unit), _)) => Some(String::from_utf8_lossy(unit).into_owned()),
            _ => None,
        };
        for (path, expected) in [
            ("/system.slice/nginx.service", Some("nginx.service")),
            ("/system.slice/system-getty.slice/getty@tty1.service", Some("getty@tty1.service")),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/syncthing.service",
                Some("syncthing.service"),
            ),
            ("/user.slice/user-1000.slice/user@1000.service/init.scope", Some("user@1000.service")),
            ("/system.slice/delegated.service/worker/7", Some("delegated.service")),
            ("/user.slice/user-1000.slice/session-3.scope", None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/app-firefox-12.scope", None),
            ("/machine.slice/crio-conmon-ID.scope", None),
            ("/init.scope", None),
            ("/.service", None),
            ("/../../x", None),
            ("/", None),
            ("", None),
        ] {
            assert_eq!(unit(&path.replace("ID", ID)).as_deref(), expected, "{path}");
        }
        assert_eq!(owner(b"/lxc.payload.web/x"), Some((Owner::Lxc(b"web"), &b"/lxc.payload.web"[..])));
    }

    #[test]
    fn the_hierarchies_are_asked_in_order() {
        let v2 = b"3:cpu:/docker/x\n1:name=systemd:/system.slice/b.service\n0::/system.slice/a.service\n";
        assert_eq!(owner_of_process(v2).map(|(owner, _)| owner), Some(Owner::Unit(b"a.service")));
        let hybrid = b"3:cpu:/c.service\n1:name=systemd:/system.slice/b.service\n0::/\n";
        assert_eq!(
            owner_of_process(hybrid),
            Some((Owner::Unit(b"b.service"), &b"/system.slice/b.service"[..]))
        );
        let v1 = b"4:memory:/\n3:cpu,cpuacct:/c.service/d\n";
        assert_eq!(owner_of_process(v1), Some((Owner::Unit(b"c.service"), &b"/c.service"[..])));
        for odd in [&b""[..], b"\n\n", b"::", b"0::", b"0:", b"\xff\xfe:\xff:\xff"] {
            assert_eq!(owner_of_process(odd), None);
        }
    }

    #[test]
    fn a_short_id_is_what_the_tools_print() {
        assert_eq!((short_id(ID), short_id("ab")), ("0123456789ab", "ab"));
    }
}
