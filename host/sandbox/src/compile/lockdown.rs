//! Takes from a compiler child what it does not need: memory and time beyond its limits, files, sockets, new privileges.
//!
//! The resource limits always hold. The confinement depends on the kernel (Landlock from Linux 5.13, its network part from
//! 6.7); it is for the case that a module breaks the compiler.

use std::io;

/// Sets the limits of a child that was started and has not been waited for, before it is given a module.
pub(crate) fn limit_resources(child: u32, memory_bytes: u64, cpu_s: u64) -> io::Result<()> {
    let child = libc::pid_t::try_from(child).map_err(io::Error::other)?;
    let set = |resource, soft, hard| {
        let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
        // SAFETY: a plain system call that reads the struct it is given.
        let set = unsafe { libc::prlimit(child, resource, &raw const limit, std::ptr::null_mut()) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    set(libc::RLIMIT_AS, memory_bytes, memory_bytes)?;
    // The soft limit sends SIGXCPU, by which the parent knows why; the hard one SIGKILL.
    set(libc::RLIMIT_CPU, cpu_s, cpu_s.saturating_add(1))?;
    set(libc::RLIMIT_NOFILE, 32, 32)?;
    set(libc::RLIMIT_FSIZE, 0, 0)?;
    // No process and no thread besides it (root is exempt).
    set(libc::RLIMIT_NPROC, 0, 0)?;
    set(libc::RLIMIT_CORE, 0, 0)
}

/// Kills a process group that this process started and has not waited for.
pub(crate) fn kill_group(leader: u32) {
    if let Ok(group) = libc::pid_t::try_from(leader) {
        // SAFETY: a plain system call; a group that is gone already is an error that does not matter.
        unsafe { libc::kill(-group, libc::SIGKILL) };
    }
}

/// Gives up files, sockets and privileges, as far as this kernel can. Called first thing in the child.
pub(crate) fn confine() {
    // SAFETY: plain system calls on values of this function; Landlock restricts only this process.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        landlock();
    }
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

/// Forbids every kind of access that the kernel can forbid.
unsafe fn landlock() {
    const CREATE_RULESET_VERSION: libc::c_long = 1;
    let nothing = std::ptr::null::<RulesetAttr>();
    // SAFETY: asks for the version only.
    let version = unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, nothing, 0_usize, CREATE_RULESET_VERSION) };
    // Rights of each version: 13 in the first; refer, truncate, ioctl are the next three.
    let (fs_bits, net, scoped, size) = match version {
        ..=0 => return,
        1 => (13, 0, 0, 8),
        2 => (14, 0, 0, 8),
        3 => (15, 0, 0, 8),
        4 => (15, 0b11, 0, 16),
        5 => (16, 0b11, 0, 16),
        _ => (16, 0b11, 0b11, 24_usize),
    };
    let attr = RulesetAttr { handled_access_fs: (1 << fs_bits) - 1, handled_access_net: net, scoped };
    // SAFETY: the struct lives through the call and `size` is at most its size.
    unsafe {
        let fd = libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0);
        if fd >= 0 {
            libc::syscall(libc::SYS_landlock_restrict_self, fd, 0);
            libc::close(fd as libc::c_int);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{os::unix::process::CommandExt, process::Command};

    #[test]
    fn a_confined_process_reaches_no_file() {
        // SAFETY: asks for the version only.
        let version = unsafe {
            libc::syscall(
                libc::SYS_landlock_create_ruleset,
                std::ptr::null::<RulesetAttr>(),
                0_usize,
                1 as libc::c_long,
            )
        };
        let mut command = Command::new("/bin/true");
        // SAFETY: `confine` makes system calls only.
        unsafe {
            command.pre_exec(|| {
                confine();
                Ok(())
            });
        }
        // Not even a program can be read any more, where the kernel has Landlock.
        match command.status() {
            Ok(status) => assert!(version <= 0 && status.success(), "Landlock {version} confined nothing"),
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::PermissionDenied),
        }
    }
}
