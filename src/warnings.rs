//! What leaves the API working and is wrong all the same, as `/ready` adds it to its answer. Threads that find it out keep it
//! here; no name stands in it, since everybody may ask.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

const WAIT: &str = "executions from before a failover wait for";

/// What is wrong now.
#[derive(Default)]
pub struct Warnings {
    silent_hosts: AtomicUsize,
    hosts_waited_for: AtomicUsize,
    is_disk_nearly_full: AtomicBool,
    is_replaced: AtomicBool,
}

impl Warnings {
    pub fn set_silent_hosts(&self, count: usize) {
        self.silent_hosts.store(count, Ordering::Relaxed);
    }

    /// Hosts that have to say first, after a failover, what they run. How many there were before.
    pub fn set_hosts_waited_for(&self, count: usize) -> usize {
        self.hosts_waited_for.swap(count, Ordering::Relaxed)
    }

    /// Of the home: no task starts here then.
    pub fn set_disk_nearly_full(&self, is_so: bool) {
        self.is_disk_nearly_full.store(is_so, Ordering::Relaxed);
    }

    /// Another server speaks for this one's host, as where its home was copied: no task starts here then.
    pub fn set_replaced(&self, is_so: bool) {
        self.is_replaced.store(is_so, Ordering::Relaxed);
    }

    /// As a field of a JSON object, with a comma before it; empty where nothing is wrong.
    pub fn json_field(&self) -> String {
        let mut texts = Vec::new();
        match self.silent_hosts.load(Ordering::Relaxed) {
            0 => {}
            1 => texts.push("1 host silent".to_owned()),
            count => texts.push(format!("{count} hosts silent")),
        }
        match self.hosts_waited_for.load(Ordering::Relaxed) {
            0 => {}
            1 => texts.push(format!("{WAIT} 1 host")),
            count => texts.push(format!("{WAIT} {count} hosts")),
        }
        if self.is_disk_nearly_full.load(Ordering::Relaxed) {
            texts.push("disk nearly full".to_owned());
        }
        if self.is_replaced.load(Ordering::Relaxed) {
            texts.push("another server has the identity of this host".to_owned());
        }
        let mut field = String::new();
        if !texts.is_empty() {
            let _ = write!(field, r#","warnings":["{}"]"#, texts.join(r#"",""#));
        }
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_wrong_is_said() {
        let warnings = Warnings::default();
        assert_eq!(warnings.json_field(), "");
        warnings.set_silent_hosts(1);
        assert_eq!(warnings.json_field(), r#","warnings":["1 host silent"]"#);
        warnings.set_disk_nearly_full(true);
        warnings.set_silent_hosts(3);
        assert_eq!(warnings.json_field(), r#","warnings":["3 hosts silent","disk nearly full"]"#);
        warnings.set_silent_hosts(0);
        warnings.set_hosts_waited_for(1);
        let waits = r#","warnings":["executions from before a failover wait for 1 host","disk nearly full"]"#;
        assert_eq!(warnings.json_field(), waits);
        warnings.set_hosts_waited_for(0);
        assert_eq!(warnings.json_field(), r#","warnings":["disk nearly full"]"#);
    }
}
