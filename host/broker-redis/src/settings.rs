//! Which servers are refused: those that throw data away, or are too old. Reads the text of `INFO`,
//! because `CONFIG` is often forbidden where Redis is rented.

use std::str::FromStr;

use umbel_broker::{Error, Result};

/// The oldest release that has functions. Valkey says that it is Redis 7.2, whatever its own version is.
const OLDEST: (u32, u32) = (7, 0);
/// The first release that can wait for its append-only file.
const WAITAOF_SINCE: (u32, u32) = (7, 2);

/// When a change counts as kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// When the server has it, in memory; its `appendfsync` decides when it is on disk.
    #[default]
    Server,
    /// When so many replicas have it in memory, too: 1 to 16.
    Replicated(u8),
    /// When it is on the server's disk. Needs Redis 7.2.
    Fsync,
}

impl FromStr for Durability {
    type Err = String;

    /// Reads `server`, `replicated=N` or `fsync=1`.
    fn from_str(text: &str) -> Result<Self, String> {
        let replicas = |n: &str| n.parse().ok().filter(|n| (1..=16).contains(n));
        match text.split_once('=') {
            None if text == "server" => Ok(Self::Server),
            Some(("replicated", n)) => match replicas(n) {
                Some(n) => Ok(Self::Replicated(n)),
                None => Err("the number of replicas must be 1 to 16".into()),
            },
            Some(("fsync", "1")) => Ok(Self::Fsync),
            _ => Err("write server, replicated=N (1 to 16 replicas) or fsync=1".into()),
        }
    }
}

/// Checks the text of `INFO`. With `allow_unsafe` what would be refused is only warned of; `quiet` leaves the warnings out.
pub(crate) fn check(info: &str, allow_unsafe: bool, quiet: bool) -> Result<()> {
    let field = |name: &str| field(info, name);
    let version = field("redis_version").unwrap_or("unknown");
    if release(version).is_some_and(|found| found < OLDEST) {
        return Err(Error::Refused(format!(
            "Redis {version} is too old; umbel needs Redis {}.{} or later, or Valkey",
            OLDEST.0, OLDEST.1
        )));
    }
    if let Some(policy) = field("maxmemory_policy").filter(|policy| *policy != "noeviction") {
        let why = format!(
            "maxmemory-policy is {policy}: when its memory is full, Redis would delete jobs that were accepted. \
             Run `redis-cli CONFIG SET maxmemory-policy noeviction` (and write it into redis.conf), \
             or pass --allow-unsafe-redis while developing"
        );
        if !allow_unsafe {
            return Err(Error::Refused(why));
        }
        if !quiet {
            tracing::warn!(policy, "{why}");
        }
    }
    if field("aof_enabled") == Some("0") && !quiet {
        tracing::warn!(
            "appendonly is off: jobs accepted since the last snapshot are lost when Redis stops. \
             Run `redis-cli CONFIG SET appendonly yes` (and write it into redis.conf)"
        );
    }
    Ok(())
}

/// Whether the server can confirm changes as it is asked to.
pub(crate) fn check_durability(info: &str, durability: Durability, quiet: bool) -> Result<()> {
    let version = field(info, "redis_version").unwrap_or("unknown");
    match durability {
        Durability::Fsync if release(version).is_some_and(|found| found < WAITAOF_SINCE) => {
            Err(Error::Refused(format!(
                "Redis {version} cannot wait for its disk (WAITAOF came with Redis 7.2): leave out --durability fsync=1, \
             and set appendfsync always"
            )))
        }
        Durability::Fsync if field(info, "aof_enabled") == Some("0") => Err(Error::Refused(
            "appendonly is off, so nothing is ever on disk: set appendonly yes, or leave out --durability fsync=1"
                .into(),
        )),
        Durability::Replicated(wanted) => {
            let connected = field(info, "connected_slaves").and_then(|n| n.parse::<u8>().ok()).unwrap_or(0);
            if connected < wanted && !quiet {
                tracing::warn!(connected, wanted, "too few replicas are connected: changes will not be confirmed");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A replica takes no writes.
pub(crate) fn is_replica(info: &str) -> bool {
    field(info, "role") == Some("slave")
}

/// A field of the text of `INFO`.
pub(crate) fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = info.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
}

fn release(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.').map(str::parse);
    Some((parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(policy: &str, version: &str, role: &str) -> String {
        format!("# Server\r\nredis_version:{version}\r\nrole:{role}\r\nmaxmemory_policy:{policy}\r\naof_enabled:1\r\n")
    }

    #[test]
    fn a_server_that_evicts_is_refused_unless_that_is_allowed() {
        let evicting = info("allkeys-lru", "7.0.15", "master");
        let Err(Error::Refused(why)) = check(&evicting, false, true) else { panic!("it was accepted") };
        assert!(
            why.contains("CONFIG SET maxmemory-policy noeviction") && why.contains("--allow-unsafe-redis"),
            "{why}"
        );
        check(&evicting, true, true).unwrap();
        check(&info("noeviction", "7.0.15", "master"), false, true).unwrap();
    }

    #[test]
    fn old_servers_are_refused() {
        for old in ["5.0.14", "6.2.14"] {
            let Err(Error::Refused(why)) = check(&info("noeviction", old, "master"), true, true) else {
                panic!("{old} was accepted")
            };
            assert!(why.contains(old) && why.contains("7.0") && why.contains("Valkey"), "{why}");
        }
        assert!(check(&info("noeviction", "7.0.0", "master"), false, true).is_ok());
        assert!(
            is_replica(&info("noeviction", "7.2.4", "slave")) && !is_replica(&info("noeviction", "7.2.4", "master"))
        );
    }

    #[test]
    fn a_durability_is_read_and_what_cannot_be_read_says_what_to_write() {
        assert_eq!("server".parse(), Ok(Durability::Server));
        assert_eq!("replicated=2".parse(), Ok(Durability::Replicated(2)));
        assert_eq!("fsync=1".parse(), Ok(Durability::Fsync));
        for wrong in ["", "replicated", "replicated=0", "replicated=17", "fsync=2", "disk"] {
            let why = wrong.parse::<Durability>().unwrap_err();
            assert!(why.contains("1 to 16"), "{why}");
        }
    }
}
