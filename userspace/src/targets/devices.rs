//! Names of block devices by their numbers.

use std::collections::HashMap;
use std::sync::Arc;

use super::services::safe_name;
use crate::metrics::OTHER;

/// Most devices whose names are kept; a large storage host has hundreds of disks and partitions.
const MAX_DEVICES: usize = 4_096;

/// Asks sysfs once for each device.
#[derive(Default)]
pub struct DeviceNames {
    names: HashMap<u32, Arc<str>>,
}

impl DeviceNames {
    /// The name that the device has in `/sys/block` (`vda`, `nvme0n1p2`); `number` is as the kernel keeps it, 12 bits major
    /// and 20 bits minor. Where sysfs knows none, `major:minor`.
    pub fn name(&mut self, number: u32) -> Arc<str> {
        if let Some(name) = self.names.get(&number) {
            return name.clone();
        }
        if self.names.len() >= MAX_DEVICES {
            return OTHER.into();
        }
        let numbers = format!("{}:{}", number >> 20, number & 0xf_ffff);
        let link = std::fs::read_link(format!("/sys/dev/block/{numbers}")).ok();
        let name = link.and_then(|link| safe_name(link.as_os_str().as_encoded_bytes())).unwrap_or(numbers);
        let name: Arc<str> = name.into();
        self.names.insert(number, name.clone());
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_its_name_or_its_numbers() {
        let mut names = DeviceNames::default();
        assert_eq!(&*names.name(0xfff << 20 | 7), "4095:7");
        for block in std::fs::read_dir("/sys/class/block").into_iter().flatten().flatten() {
            let numbers = std::fs::read_to_string(block.path().join("dev")).expect("numbers");
            let (major, minor) = numbers.trim().split_once(':').expect("a colon");
            let number = major.parse::<u32>().expect("major") << 20 | minor.parse::<u32>().expect("minor");
            assert_eq!(*names.name(number), *block.file_name().to_string_lossy());
        }
    }
}
