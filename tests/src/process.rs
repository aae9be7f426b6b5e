//! A process of a test: its output goes to a file, it dies with the test, and it can be killed the hard way.

use std::{
    ffi::OsStr,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};

/// The binary under test: `UMBEL_BIN`, or the `umbel` beside the tests' own build.
pub fn umbel_binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("UMBEL_BIN") {
        let path = PathBuf::from(path);
        ensure!(path.is_file(), "UMBEL_BIN names {}, which is not a file", path.display());
        return Ok(path);
    }
    // target/<profile>/deps/<test> or target/<profile>/<bin>
    let own = std::env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|folder| folder.join("umbel")).find(|path| path.is_file());
    found.context("the binary `umbel` is not built; `cargo xtask test` builds it, or `cargo build --workspace`")
}

/// A command that runs the binary with nothing of the caller's `UMBEL_*` settings.
pub fn umbel_command<S: AsRef<OsStr>>(arguments: &[S]) -> Result<Command> {
    Ok(command_of(&umbel_binary()?, arguments))
}

/// The same for another binary, such as that of an older version.
pub(crate) fn command_of<S: AsRef<OsStr>>(binary: &Path, arguments: &[S]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBEL_")) {
        command.env_remove(name);
    }
    command.args(arguments).stdin(Stdio::null()).env_remove("RUST_LOG");
    command
}

/// A running process.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Result<Self> {
        let file = File::options().create(true).append(true).open(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        die_with_parent(&mut command);
        let child = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name: name.to_owned(), log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it wrote so far.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// `kill -9` and the wait for its end.
    pub fn kill(&mut self) -> Result<()> {
        self.signal(libc::SIGKILL)?;
        self.child.wait()?;
        Ok(())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32) -> Result<()> {
        // SAFETY: kill touches no memory. The child was not reaped while `self` lives, so the id is still its own.
        let result = unsafe { libc::kill(self.child.id() as i32, signal) };
        ensure!(result == 0, "cannot signal {}: {}", self.name, std::io::Error::last_os_error());
        Ok(())
    }

    /// Asks it to end and waits for that.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        self.ended(limit).await
    }

    /// Waits for its end.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} did not end within {limit:?}; its output:\n{}", self.name, self.output());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// An error with its output if it has ended.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}; its output:\n{}", self.name, self.output()),
        }
    }

    /// Processor time of all its threads so far, seconds, in steps of a hundredth.
    pub fn cpu_s(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.id()))?;
        // Behind the name, which may have spaces: field 3 is the first one.
        let fields: Vec<&str> = stat.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
        let ticks = |field: usize| fields.get(field - 3).and_then(|text| text.parse::<f64>().ok()).context("no ticks");
        Ok((ticks(14)? + ticks(15)?) / 100.0)
    }

    /// Its threads.
    pub fn threads(&self) -> Result<usize> {
        Ok(fs::read_dir(format!("/proc/{}/task", self.id()))?.count())
    }

    /// Resident memory, MiB.
    pub fn rss_mib(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches("kB").trim().parse()?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // In a test's own thread this is captured, and shown if the test fails.
        if std::thread::current().name() != Some("main") {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            eprintln!("--- the end of {}'s output\n{}", self.name, lines[lines.len().saturating_sub(40)..].join("\n"));
        }
    }
}

/// A group of its own, ended by the kernel if the test is killed.
fn die_with_parent(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
    #[cfg(target_os = "linux")]
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            Ok(())
        });
    }
}
