//! What is loaded into the kernel's eBPF machine at a moment, as bpftool tells it: programs and maps.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::failure::{Failure, Result};
use crate::process;

/// A loaded program.
#[derive(Deserialize)]
pub(crate) struct Program {
    id: u32,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// Of a chain of tail calls the first program is charged with the whole (`__bpf_prog_run`).
    #[serde(default)]
    pub(crate) run_time_ns: u64,
    #[serde(default)]
    pub(crate) run_cnt: u64,
}

/// A map.
#[derive(Deserialize)]
pub(crate) struct Map {
    id: u32,
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    /// At most 15 characters.
    #[serde(default)]
    pub(crate) name: String,
    pub(crate) bytes_value: u64,
    /// Kernel memory that it takes.
    #[serde(default)]
    pub(crate) bytes_memlock: u64,
}

/// Every program, by id.
pub(crate) fn programs() -> Result<BTreeMap<u32, Program>> {
    Ok(list::<Program>("prog")?.into_iter().map(|program| (program.id, program)).collect())
}

/// Every map, by id.
pub(crate) fn maps() -> Result<BTreeMap<u32, Map>> {
    Ok(list::<Map>("map")?.into_iter().map(|map| (map.id, map)).collect())
}

fn list<T: DeserializeOwned>(objects: &str) -> Result<Vec<T>> {
    let mend = "apt-get install bpftool";
    let text = process::capture(Command::new("bpftool").args(["--json", objects, "show"]), mend)?;
    read(&text).map_err(|why| Failure::new(format!("bpftool's JSON cannot be read: {why}"), mend))
}

/// Where there is nothing at all, it prints nothing.
fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<Vec<T>> {
    if text.trim().is_empty() { Ok(Vec::new()) } else { serde_json::from_str(text) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_bpftool_says() {
        let text = r#"[{"id":7,"type":"array","name":"UNWIND_1","flags":5120,"bytes_key":4,"bytes_value":64,
            "max_entries":9,"bytes_memlock":4096,"frozen":0}]"#;
        let maps: Vec<Map> = read(text).unwrap();
        assert_eq!((maps[0].id, maps[0].bytes_value, maps[0].bytes_memlock), (7, 64, 4096));
        let text = r#"[{"id":3,"type":"perf_event","name":"cpu","run_time_ns":50,"run_cnt":2}]"#;
        let programs: Vec<Program> = read(text).unwrap();
        assert_eq!((programs[0].run_time_ns, programs[0].run_cnt), (50, 2));
        assert!(read::<Map>("\n").unwrap().is_empty());
    }
}
