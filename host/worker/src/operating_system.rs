//! This machine's clock, randomness, name and memory. None of them decides what becomes of a job.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

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

/// Lets other threads go before the calling one when the machine is busy: what serves everybody is not behind what guests
/// compute. Only on Linux, where a thread has a priority of its own; where it is refused, all are equal.
pub(crate) fn give_way() {
    #[cfg(target_os = "linux")]
    // SAFETY: changes a number of the calling thread, and touches no memory of ours.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, GUESTS_NICE);
    }
}

/// How much nicer guests are than the process: a tenth of the processor's time when both want all of it.
#[cfg(target_os = "linux")]
const GUESTS_NICE: i32 = 10;

/// How long the calling thread has computed, in itself and in the system; zero where the system does not say.
pub(crate) fn thread_time() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the pointer is to a local of the right type.
    let read = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    if read != 0 {
        return Duration::ZERO;
    }
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// Resident memory of this process, bytes; 0 where the system does not say.
pub(crate) fn rss_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: sysconf reads a constant of the system and touches no memory of ours.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    pages * u64::try_from(page).unwrap_or(4_096)
}

/// Memory that guests of this process may have together, bytes: three quarters of what the machine or the cgroup gives to
/// it, but no more than it holds now and three quarters of what nobody uses. No limit where the system does not say.
pub(crate) fn guest_memory_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").map(|text| of_machine(&text)).unwrap_or_default();
    let groups = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let all = std::iter::once(machine).chain(of_cgroups(&groups, |path| std::fs::read_to_string(path).ok()));
    let held = rss_bytes();
    all.map(|memory| three_quarters(memory.limit).min(held.saturating_add(three_quarters(memory.unused))))
        .min()
        .unwrap_or(u64::MAX)
}

fn three_quarters(bytes: u64) -> u64 {
    bytes / 4 * 3
}

/// Memory of a machine or a cgroup, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Memory {
    limit: u64,
    unused: u64,
}

impl Default for Memory {
    fn default() -> Self {
        Self { limit: u64::MAX, unused: u64::MAX }
    }
}

fn of_machine(meminfo: &str) -> Memory {
    let of = |name: &str| {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(u64::MAX, |kib| kib << 10)
    };
    Memory { limit: of("MemTotal:"), unused: of("MemAvailable:") }
}

/// Of the cgroup of this process and those around it that have a limit. `groups` is `/proc/self/cgroup`.
fn of_cgroups(groups: &str, read: impl Fn(&str) -> Option<String>) -> Vec<Memory> {
    let mut found = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(mut path)) = (parts.next(), parts.next()) else { continue };
        let (root, limit, current) = match controllers {
            "" => ("/sys/fs/cgroup", "memory.max", "memory.current"),
            "memory" => ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
            _ => continue,
        };
        loop {
            let folder = format!("{root}{}", path.trim_end_matches('/'));
            let number = |name: &str| read(&format!("{folder}/{name}"))?.trim().parse::<u64>().ok();
            if let Some(limit) = number(limit) {
                // The cache of files is given back when it is needed.
                let stat = read(&format!("{folder}/memory.stat")).unwrap_or_default();
                let cache = stat.lines().find_map(|line| line.strip_prefix("inactive_file "));
                let cache = cache.and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0);
                let used = number(current).unwrap_or(0).saturating_sub(cache);
                found.push(Memory { limit, unused: limit.saturating_sub(used) });
            }
            match path.rsplit_once('/') {
                Some((parent, name)) if !name.is_empty() => path = parent,
                _ => break,
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_name_and_memory() {
        assert!(!host_name().is_empty());
        assert!(rss_bytes() > 0 && guest_memory_bytes() > 0);
    }

    #[test]
    fn the_memory_of_the_machine_and_of_every_cgroup_with_a_limit_is_read() {
        let machine = of_machine("MemTotal:  8000 kB\nMemFree:  1 kB\nMemAvailable:  2000 kB\n");
        assert_eq!(machine, Memory { limit: 8_000 << 10, unused: 2_000 << 10 });
        assert_eq!(of_machine(""), Memory::default());
        let read = |path: &str| {
            let text = match path {
                "/sys/fs/cgroup/a/b/memory.max" => "max\n",
                "/sys/fs/cgroup/a/memory.max" => "1000\n",
                "/sys/fs/cgroup/a/memory.current" => "700\n",
                "/sys/fs/cgroup/a/memory.stat" => "anon 1\ninactive_file 200\n",
                "/sys/fs/cgroup/memory/c/memory.limit_in_bytes" => "5000",
                _ => return None,
            };
            Some(text.to_owned())
        };
        assert_eq!(of_cgroups("0::/a/b\n", read), [Memory { limit: 1_000, unused: 500 }]);
        let old = of_cgroups("5:cpu,cpuacct:/c\n4:memory:/c\n", read);
        assert_eq!(old, [Memory { limit: 5_000, unused: 5_000 }]);
        assert!(of_cgroups("0::/\n", read).is_empty());
    }
}
