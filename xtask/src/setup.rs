//! Installs what the tests need and a fresh machine lacks.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

use crate::steps;

/// Makes sure that `redis-server` can be started.
pub fn redis_server() -> Result<()> {
    program("redis-server", &["redis-server"])
}

/// Makes sure that `program` can be started, by installing Debian's `packages` when it cannot.
pub fn program(program: &str, packages: &[&str]) -> Result<()> {
    if answers(program) {
        return Ok(());
    }
    eprintln!("    {program} is missing");
    apt_get(packages).with_context(|| {
        format!(
            "{program} is needed; install it (Debian and Ubuntu: `apt-get install {}`) and try again",
            packages.join(" ")
        )
    })?;
    if !answers(program) {
        bail!("{} was installed, and still `{program} --version` does not answer", packages.join(" "));
    }
    Ok(())
}

fn answers(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Installs Debian packages as root or by a sudo that asks for no password.
pub fn apt_get(packages: &[&str]) -> Result<()> {
    if !answers("apt-get") {
        bail!("this machine has no apt-get");
    }
    eprintln!("    installing {}", packages.join(" "));
    // SAFETY: geteuid has no preconditions and cannot fail.
    let root = unsafe { libc::geteuid() } == 0;
    if !root && !answers("sudo") {
        bail!("apt-get needs root, and there is no sudo");
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if root { "env" } else { "sudo" });
        if !root {
            command.args(["-n", "env"]);
        }
        // RUNLEVEL=1 keeps the package from starting its service: the tests start their own.
        command.args(["DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"]).args(arguments);
        steps::show(command.stdin(Stdio::null()))
    };
    let install: Vec<&str> =
        ["install", "-y", "-q", "--no-install-recommends"].iter().chain(packages).copied().collect();
    if apt(&install).is_ok() {
        return Ok(());
    }
    // On a fresh machine the list of packages is empty or old.
    apt(&["update", "-q"])?;
    apt(&install)
}
