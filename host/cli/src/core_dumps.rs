//! No core dumps of a process that has secrets in hand.

use std::fs;

/// A dump of this process would have its keys, and whatever secret it has in hand.
pub fn forbid() {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure is ours and lives as long as the call.
    if unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) } != 0 {
        tracing::warn!("core dumps of this process cannot be turned off");
    }
    // The limit does not hold where the kernel hands dumps to a program (`|` in core_pattern): such a dump has no memory then.
    // Where there is no such file, there is nothing more to be done.
    let _ = fs::write("/proc/self/coredump_filter", "0");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dump_has_no_memory_also_where_a_program_takes_it() {
        forbid();
        let filter = fs::read_to_string("/proc/self/coredump_filter").unwrap_or_default();
        assert!(filter.trim().bytes().all(|digit| digit == b'0'), "{filter}");
    }
}
