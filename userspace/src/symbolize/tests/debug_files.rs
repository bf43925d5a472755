//! Separate and embedded debug files, made with binutils as distributions make them.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use super::*;
use crate::symbolize::debug_file::debug_link;

const PROGRAM: &str = "
    static int __attribute__((noinline)) hidden(int x) { return x * 3 + 1; }
    int main(int count, char **arguments) { return hidden(count); }";

/// A stripped program, its debug file, and where `hidden` is in it.
struct Stripped {
    workshop: Workshop,
    program: PathBuf,
    debug: PathBuf,
    hidden: u64,
}

impl Stripped {
    fn new(build_id: &str) -> Self {
        let workshop = Workshop::new();
        let flags = ["-g", "-O1", &format!("-Wl,--build-id={build_id}")];
        let program = workshop.compile("program", "c", PROGRAM, &flags);
        let hidden = functions(&program, &[]).into_iter().find(|(_, _, name)| name == "hidden").unwrap().0;
        let debug = workshop.path("program.debug");
        run("objcopy", &["--only-keep-debug", text(&program), text(&debug)]);
        run("strip", &["--strip-all", text(&program)]);
        Self { workshop, program, debug, hidden }
    }

    fn add_link(&self) {
        run("objcopy", &[&format!("--add-gnu-debuglink={}", text(&self.debug)), text(&self.program)]);
    }

    /// The name and its source, with the workshop's folder `root` in the role of the process's root.
    fn resolve(&self, inlines: bool) -> (Option<String>, NameSource) {
        let root = self.workshop.path("root");
        let options = Options { inlines, ..PLAIN };
        let names = resolve(&self.program, Some(&root), options, &[self.hidden]).unwrap();
        assert_eq!(names.shortfall, None, "asked for inlines: {inlines}");
        (system_names(&names).remove(0), names.source)
    }

    /// Moves the debug file to `path` below the process's root.
    fn install(&self, path: &str) {
        let target = self.workshop.path("root").join(path.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::rename(&self.debug, target).unwrap();
    }

    fn path_by_id(&self) -> String {
        let file = File::open(&self.program).unwrap();
        let id = ElfFile::parse(&file).unwrap().build_id().unwrap().to_string();
        format!("/usr/lib/debug/.build-id/{}/{}.debug", &id[..2], &id[2..])
    }
}

#[test]
fn by_build_id() {
    let stripped = Stripped::new("sha1");
    assert_ne!(stripped.resolve(false).0, Some("hidden".into()));
    let path = stripped.path_by_id();
    stripped.install(&path);
    assert_eq!(stripped.resolve(false), (Some("hidden".into()), NameSource::DebugFile(path.clone().into())));
    assert_eq!(stripped.resolve(true), (Some("hidden".into()), NameSource::DebugFile(path.into())));
}

#[test]
fn a_debug_file_of_another_build_is_refused() {
    let stripped = Stripped::new("sha1");
    let other = Stripped::new("md5");
    fs::copy(&other.debug, &stripped.debug).unwrap();
    stripped.install(&stripped.path_by_id());
    assert_ne!(stripped.resolve(false).0, Some("hidden".into()));
}

#[test]
fn by_debug_link_in_each_place() {
    for build_id in ["sha1", "none"] {
        for place in ["{}/program.debug", "{}/.debug/program.debug", "/usr/lib/debug{}/program.debug"] {
            let stripped = Stripped::new(build_id);
            stripped.add_link();
            let folder = stripped.program.parent().unwrap().to_str().unwrap().to_owned();
            let path = place.replace("{}", &folder);
            stripped.install(&path);
            assert_eq!(stripped.resolve(false), (Some("hidden".into()), NameSource::DebugFile(path.into())));
        }
    }
}

#[test]
fn a_link_with_another_checksum_is_refused() {
    let stripped = Stripped::new("none");
    stripped.add_link();
    let mut debug = fs::read(&stripped.debug).unwrap();
    debug.push(0);
    fs::write(&stripped.debug, debug).unwrap();
    assert_ne!(stripped.resolve(false).0, Some("hidden".into()));
}

#[test]
fn links_of_a_container_stay_in_it() {
    let stripped = Stripped::new("sha1");
    let root = stripped.workshop.path("root");
    let path = stripped.path_by_id();
    let link = root.join(path.trim_start_matches('/'));
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    // An absolute link out of the root names nothing within it.
    symlink(&stripped.debug, &link).unwrap();
    assert_ne!(stripped.resolve(false).0, Some("hidden".into()));
    fs::remove_file(&link).unwrap();
    fs::copy(&stripped.debug, root.join("kept")).unwrap();
    symlink("/kept", &link).unwrap();
    assert_eq!(stripped.resolve(false).0, Some("hidden".into()));
    // A pipe would block whoever opens it.
    fs::remove_file(&link).unwrap();
    run("mkfifo", &[text(&link)]);
    assert_ne!(stripped.resolve(false).0, Some("hidden".into()));
}

#[test]
fn embedded_and_compressed() {
    let stripped = Stripped::new("sha1");
    let (table, packed) = (stripped.workshop.path("table"), stripped.workshop.path("table.xz"));
    run(
        "objcopy",
        &["-S", "--remove-section", ".comment", "--keep-symbol=hidden", text(&stripped.debug), text(&table)],
    );
    run("xz", &["--keep", text(&table)]);
    run("objcopy", &[&format!("--add-section=.gnu_debugdata={}", text(&packed)), text(&stripped.program)]);
    assert_eq!(stripped.resolve(false), (Some("hidden".into()), NameSource::DynamicSymbols));
}

#[test]
fn debug_links_that_lead_elsewhere() {
    assert_eq!(debug_link(b"a.debug\0\x01\x02\x03\x04"), Some(("a.debug".into(), 0x0403_0201)));
    assert_eq!(debug_link(b"ab\0\0\x01\0\0\0"), Some(("ab".into(), 1)));
    for bad in [
        &b""[..],
        b"\0\0\0\0\0\0\0\0",
        b"a\0\0\0\0",
        b"../x\0\0\0\0\0\0\0\0",
        b"..\0\0\0\0\0\0",
        b"\xff\0\0\0\0\0\0\0",
    ] {
        assert_eq!(debug_link(bad), None, "{bad:?}");
    }
}
