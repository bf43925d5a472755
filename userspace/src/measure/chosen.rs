//! The processes that a measurement is about, where it is not about all: some that were named, and what they fork.

use std::collections::HashSet;

use hostscope_wire::process::ProcessRecord;
use hostscope_wire::row::RowKey;

use crate::targets::services::{ProcessKey, Services};

/// All, or those that were chosen.
pub struct Chosen(Option<HashSet<ProcessKey>>);

impl Chosen {
    /// Those with these ids now; without ids everybody and the devices.
    pub fn new(pids: Option<&[u32]>, services: &Services) -> Self {
        Self(pids.map(|pids| pids.iter().filter_map(|&pid| services.current(pid)).collect()))
    }

    /// Whether the whole host is meant.
    pub fn is_everybody(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this process is one.
    pub fn has(&self, key: ProcessKey) -> bool {
        self.0.as_ref().is_none_or(|keys| keys.contains(&key))
    }

    /// Whether this row is one's. What belongs to a device or to the kernel's own threads is nobody's.
    pub fn has_row(&self, key: &RowKey) -> bool {
        let Some(keys) = &self.0 else { return true };
        super::process_of(key).is_some_and(|key| keys.contains(&key))
    }

    /// A process was born. To be told before `services` is, which then knows the child by its own id.
    pub fn on_fork(&mut self, record: &ProcessRecord, services: &Services) {
        if let Some(keys) = &mut self.0
            && services.current(record.parent_tgid).is_some_and(|parent| keys.contains(&parent))
        {
            keys.insert(ProcessKey::new(record.tgid, record.start_time_ns));
        }
    }

    /// Forgets those that `services` has forgotten, a grace time after their end: as many are remembered as there are processes,
    /// and what was born since the last call.
    pub fn forget(&mut self, services: &Services) {
        if let Some(keys) = &mut self.0 {
            keys.retain(|&key| services.get(key).is_some());
        }
    }

    /// Whether none lives any more. Everybody always does.
    pub fn have_ended(&self, services: &Services) -> bool {
        let lives = |key: &ProcessKey| {
            services.get(*key).is_some_and(|process| process.ended_at_ns.is_none()) && is_there(key.pid)
        };
        self.0.as_ref().is_some_and(|keys| !keys.iter().any(lives))
    }
}

/// Asked as well, since the event of an end may be lost.
fn is_there(pid: u32) -> bool {
    let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
    pid.is_some_and(|pid| rustix::process::test_kill_process(pid) != Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use hostscope_wire::row::Family;

    use super::*;
    use crate::targets::TICK_NS;
    use crate::targets::containers::Containers;

    fn record(tgid: u32, parent_tgid: u32) -> ProcessRecord {
        let start_time_ns = u64::from(tgid) * TICK_NS;
        ProcessRecord { start_time_ns, tgid, parent_tgid, ..ProcessRecord::default() }
    }

    fn row(subject: u32, family: Family) -> RowKey {
        let start_time_ns = u64::from(subject) * TICK_NS;
        RowKey { start_time_ns, subject, family: family as u8, ..RowKey::default() }
    }

    #[test]
    fn children_belong_to_it_and_others_do_not() {
        let mut services = Services::new("/no/such/folder", Containers::new("/no/such/folder"));
        for pid in [7, 8] {
            services.on_fork(&record(pid, 1));
        }
        let mut chosen = Chosen::new(Some(&[7, 99]), &services);
        for record in [record(20, 7), record(21, 8), record(22, 20)] {
            chosen.on_fork(&record, &services);
            services.on_fork(&record);
        }
        let found = [7, 8, 20, 21, 22].map(|pid| chosen.has_row(&row(pid, Family::RunQueue)));
        assert_eq!(found, [true, false, true, false, true]);
        // Numbers of devices and of vectors may be those of processes.
        assert!(![Family::BlockIo, Family::SoftIrq].into_iter().any(|f| chosen.has_row(&row(7, f))));
        assert!(!chosen.has_row(&RowKey { family: Family::RunQueue as u8, ..RowKey::default() }));
        // The same id, but another process.
        assert!(!chosen.has_row(&RowKey { start_time_ns: 1, ..row(7, Family::RunQueue) }));
    }

    #[test]
    fn everybody_is_everybody() {
        let services = Services::new("/no/such/folder", Containers::new("/no/such/folder"));
        let chosen = Chosen::new(None, &services);
        assert!(chosen.is_everybody() && chosen.has_row(&row(7, Family::BlockIo)));
        assert!(chosen.has(ProcessKey::new(1, 2)) && !chosen.have_ended(&services));
        assert!(Chosen::new(Some(&[]), &services).have_ended(&services));
    }
}
