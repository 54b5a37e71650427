//! How much memory a process takes.

use std::fs;

/// Memory of a process in bytes, pages that it shares with others counted in part, so that the numbers of a tree can be
/// added. Where the system does not tell parts (Linux before 4.14, hardened ones), all of its resident memory. 0 when
/// there is no such process.
pub fn memory_bytes(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    proportional(&rollup).unwrap_or_else(|| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        kilobytes(&status, "VmRSS:").unwrap_or_default()
    })
}

fn proportional(rollup: &str) -> Option<u64> {
    kilobytes(rollup, "Pss:")
}

fn kilobytes(table: &str, field: &str) -> Option<u64> {
    let line = table.lines().find_map(|line| line.strip_prefix(field))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_takes_memory_and_one_that_is_not_takes_none() {
        assert!(memory_bytes(std::process::id()) > 1_000_000);
        assert_eq!(memory_bytes(u32::MAX), 0);
    }

    #[test]
    fn shared_pages_are_counted_in_part() {
        let rollup = "55e0-7ffd ---p 00000000 00:00 0 [rollup]\nRss:  9000 kB\nPss:  4100 kB\nPss_Dirty: 100 kB\n";
        assert_eq!(proportional(rollup), Some(4100 * 1024));
        assert_eq!(proportional(""), None);
    }
}
