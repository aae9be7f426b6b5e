//! Steps that a person can follow: each says its name, what it runs and how long it took; cargo's own progress shows
//! through. The first failure ends the verb.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// A numbered list of steps.
pub struct Steps {
    total: usize,
    done: usize,
    started: Instant,
}

impl Steps {
    /// A list of `total` steps.
    pub fn new(total: usize) -> Self {
        Self { total, done: 0, started: Instant::now() }
    }

    /// Runs one step.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.done += 1;
        let place = format!("[{}/{}]", self.done, self.total);
        eprintln!("\n==> {place} {name}");
        let start = Instant::now();
        let result = work().with_context(|| format!("step {place} {name}"))?;
        eprintln!("<== {place} {name}: {}", seconds(start.elapsed()));
        Ok(result)
    }

    /// How long all steps took so far.
    pub fn elapsed(&self) -> String {
        seconds(self.started.elapsed())
    }
}

fn seconds(time: Duration) -> String {
    match time.as_secs() {
        s if s >= 60 => format!("{} min {} s", s / 60, s % 60),
        _ => format!("{:.1} s", time.as_secs_f64()),
    }
}

/// `cargo` with these arguments, never asking for input.
pub fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(arguments).stdin(Stdio::null());
    // Set for this process by the outer cargo; an inner one must find its own.
    for name in ["CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PKG_NAME", "CARGO_PKG_VERSION"] {
        command.env_remove(name);
    }
    command
}

/// Runs a command with its output shown; a status other than 0 is an error that names the command.
pub fn show(command: &mut Command) -> Result<()> {
    let line = line(command);
    eprintln!("    $ {line}");
    let status = command.status().with_context(|| format!("cannot start `{line}`"))?;
    if !status.success() {
        bail!("`{line}` ended with {status}");
    }
    Ok(())
}

/// Runs a command and returns what it wrote to its standard output.
pub fn read(command: &mut Command) -> Result<String> {
    let line = line(command);
    let output = command.stderr(Stdio::inherit()).output().with_context(|| format!("cannot start `{line}`"))?;
    if !output.status.success() {
        bail!("`{line}` ended with {}", output.status);
    }
    String::from_utf8(output.stdout).with_context(|| format!("`{line}` wrote something that is not UTF-8"))
}

/// The command as a person would type it, long arguments cut.
pub fn line(command: &Command) -> String {
    let short = |text: &str| match text.char_indices().nth(100) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    };
    std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| {
            let word = short(&word.to_string_lossy());
            if word.is_empty() || word.contains([' ', '"', '{', '[', '*', '\n']) { format!("'{word}'") } else { word }
        })
        .collect::<Vec<_>>()
        .join(" ")
}
