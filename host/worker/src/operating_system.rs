//! This machine's clock, randomness, name and memory. None of them decides what becomes of a job.

use std::time::{SystemTime, UNIX_EPOCH};

use umbel_model::{UnixMs, WorkerId};

/// This machine's clock, for people only.
pub(crate) fn unix_ms() -> UnixMs {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Uniform. Falls back to the clock when the system has no randomness, which only makes jitter worse.
pub(crate) fn random_u64() -> u64 {
    getrandom::u64().unwrap_or_else(|_| unix_ms().wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// This machine's name, made of characters that a worker id may have; `localhost` if it has none.
pub fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let allowed = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let name: String = name.trim().chars().filter(allowed).take(64).collect();
    if name.starts_with(|c: char| c.is_ascii_alphanumeric()) { name } else { "localhost".to_owned() }
}

/// A worker id that no other process has: host name, process id and a random part.
pub fn unique_worker_id() -> WorkerId {
    let name = format!("{}-{}-{:08x}", host_name(), std::process::id(), random_u64() as u32);
    WorkerId::new(name).expect("the host name has only characters of a worker id")
}

/// Resident memory of this process, bytes; 0 where the system does not say.
pub(crate) fn rss_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4_096)
}

#[cfg(test)]
mod tests {
    #[test]
    fn this_process_has_a_name_and_memory() {
        assert!(!super::host_name().is_empty());
        assert!(super::rss_bytes() > 0);
    }
}
