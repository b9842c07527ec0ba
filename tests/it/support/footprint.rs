//! What a process holds, as the kernel sees it.

use std::fs;

/// Memory, threads and descriptors at one moment.
#[derive(Debug, Clone, Copy)]
pub struct Footprint {
    /// `VmRSS`, in KiB.
    pub memory: u64,
    /// The most that `VmRSS` ever was, in KiB.
    pub peak: u64,
    pub threads: usize,
    pub descriptors: usize,
}

impl Footprint {
    pub fn of(pid: u32) -> Footprint {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let kib = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
        };
        let entries = |kind: &str| fs::read_dir(format!("/proc/{pid}/{kind}")).unwrap().count();
        Footprint {
            memory: kib("VmRSS"),
            peak: kib("VmHWM"),
            threads: entries("task"),
            descriptors: entries("fd"),
        }
    }
}

/// The soft and the hard limit of open files.
pub fn file_limits(pid: u32) -> (u64, u64) {
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map(|number| number.parse().unwrap());
    (numbers.next().unwrap(), numbers.next().unwrap())
}
