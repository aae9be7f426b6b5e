//! `cargo xtask quickstart`: from a clone to results. Builds what the tests use too, starts `umbel dev` on SQLite, pushes the example
//! modules, runs jobs of several kinds through the command line as a user would, and leaves the service up.

use std::{
    fs,
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};

use crate::{
    guests,
    steps::{Steps, line},
    test,
};

/// The usual port of `umbel dev`; a free one is taken when it is in use.
const PORT: u16 = 7717;
/// How long the service may take to answer.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How much text is counted: it has to fit into one argument of a command line, 128 KiB, as JSON.
const WORDS_BYTES: usize = 60_000;

/// The modules of its jobs. The others have tasks with the same names, which a push must not take.
const EXAMPLES: [&str; 4] = ["images", "numbers", "orders", "text"];

/// Runs it; `once` ends the service afterwards.
pub fn run(root: &Path, once: bool) -> Result<()> {
    let mut steps = Steps::new(4);
    let built =
        steps.step("build the binary and the guests (cold: several minutes, wasmtime is large)", || build(root));
    let guests = built?;
    let mut dev = steps.step("start `umbel dev` on SQLite", || Dev::start(root))?;
    let shown = steps
        .step("push the example modules", || dev.push_examples(&guests))
        .and_then(|()| steps.step("run jobs of several kinds", || dev.run_jobs()));
    if let Err(e) = shown {
        eprintln!("\nthe last lines of {}:\n{}", dev.log.display(), tail(&dev.log));
        return Err(e);
    }
    eprintln!("\nquickstart done in {}", steps.elapsed());
    if once {
        return dev.stop();
    }
    dev.stay()
}

/// Both at once: each build alone leaves a core idle while it waits for its largest crates.
fn build(root: &Path) -> Result<guests::Guests> {
    thread::scope(|scope| {
        let guests = scope.spawn(|| guests::build_guests(root));
        test::build_binary()?;
        guests.join().map_err(|_| anyhow!("the build of the guests panicked"))?
    })
}

/// A running `umbel dev`; dropping it ends it.
struct Dev {
    child: Child,
    root: PathBuf,
    url: String,
    log: PathBuf,
}

impl Dev {
    fn start(root: &Path) -> Result<Self> {
        let data = root.join(".umbel");
        fs::create_dir_all(&data).with_context(|| format!("cannot create {}", data.display()))?;
        let log = data.join("dev.log");
        let file = fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let port = free_port()?;
        let mut command = umbel(root);
        command.args(["dev", "--port", &port.to_string(), "--data", ".umbel"]);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        eprintln!("    $ {} > .umbel/dev.log 2>&1 &", line(&command).replace(&format!("{}/", root.display()), ""));
        end_with_us(&mut command);
        let child = command.spawn().context("cannot start the binary")?;
        let mut dev = Self { child, root: root.to_owned(), url: format!("http://127.0.0.1:{port}"), log };
        dev.wait_until_it_answers(port)?;
        eprintln!("    it answers at {}", dev.url);
        Ok(dev)
    }

    fn wait_until_it_answers(&mut self, port: u16) -> Result<()> {
        let deadline = Instant::now() + START_LIMIT;
        // The profile is what the client verbs read; one of an earlier run names another port.
        let profile = self.root.join(".umbel/profile.json");
        let named = || fs::read_to_string(&profile).is_ok_and(|text| text.contains(&format!(":{port}")));
        while !(alive(port) && named()) {
            if let Some(status) = self.child.try_wait()? {
                bail!("`umbel dev` ended at once with {status}:\n{}", tail(&self.log));
            }
            ensure!(
                Instant::now() < deadline,
                "`umbel dev` does not answer after {START_LIMIT:?}:\n{}",
                tail(&self.log)
            );
            thread::sleep(Duration::from_millis(50));
        }
        Ok(())
    }

    fn push_examples(&self, guests: &guests::Guests) -> Result<()> {
        for guest in guests.modules.iter().filter(|guest| EXAMPLES.contains(&guest.name.as_str())) {
            let path = guest.path.strip_prefix(&self.root).unwrap_or(&guest.path);
            self.client(&["module", "push", &path.to_string_lossy()])?;
        }
        Ok(())
    }

    fn run_jobs(&self) -> Result<()> {
        self.client(&["task", "list"])?;
        say("typed arguments, by position and by name");
        self.client(&["job", "submit", "add", "2", "3", "--wait"])?;
        self.client(&["job", "submit", "fib", "--kwarg", "n=27", "--wait"])?;
        self.orders()?;
        self.words()?;
        self.picture()?;
        say("what ran");
        self.client(&["job", "list"])?;
        self.client(&["queue", "list"])
    }

    /// Celery's classic: an order, with progress, a retry by policy and an error that is not worth one.
    fn orders(&self) -> Result<()> {
        let items = r#"[{"sku":"tea","quantity":2,"unit_price_cents":450}]"#;
        say("an order: the gateway is busy for two attempts, and the task's policy retries it until it succeeds");
        let order = ["job", "submit", "process_order", "7", items];
        self.client(&[&order[..], &["--kwarg", "payment_token=tok_busy_twice", "--wait"]].concat())?;
        say("an order whose card is declined: a permanent error, never retried (the client ends with status 3)");
        let words = [&order[..], &["--kwarg", "payment_token=tok_declined", "--wait"]].concat();
        eprintln!("    $ umbel {}", shown(&words));
        let status = umbel(&self.root).args(&words).stdin(Stdio::null()).status()?;
        ensure!(status.code() == Some(3), "`umbel {}` ended with {status}, not 3", shown(&words));
        Ok(())
    }

    /// Counts the words of this repository's own documents: split, count the parts, merge.
    fn words(&self) -> Result<()> {
        say("the words of this repository's own documents: split, count each part, merge");
        let mut files = vec![self.root.join("README.md")];
        files.extend(
            crate::tidy::files_below(&self.root.join("docs"))?
                .into_iter()
                .filter(|f| f.extension().is_some_and(|e| e == "md")),
        );
        let mut text = String::new();
        for file in &files {
            text.push_str(&fs::read_to_string(file).with_context(|| file.display().to_string())?);
            text.push('\n');
        }
        // One argument of a command line holds 128 KiB at most.
        let cut = (0..=WORDS_BYTES.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or_default();
        let parts = self.result(&["split", &json(&text[..cut]), "3"])?;
        let parts: Vec<String> = serde_json::from_str(&parts).context("`split` did not return a list of texts")?;
        let mut counts = Vec::new();
        for part in &parts {
            counts.push(self.result(&["count", &json(part)])?);
        }
        self.client(&["job", "submit", "merge", &format!("[{}]", counts.join(",")), "8", "--wait"])
    }

    /// Scales a real PNG down in the sandbox.
    fn picture(&self) -> Result<()> {
        say("a thumbnail of a real PNG: both are blobs");
        let png = gradient_png(160, 100);
        let file = self.root.join(".umbel/gradient.png");
        fs::write(&file, &png).with_context(|| file.display().to_string())?;
        let answer = self.result(&["thumbnail", "@blob:.umbel/gradient.png", "64"])?;
        let answer: serde_json::Value = serde_json::from_str(&answer)?;
        eprintln!("    {}x{}, {} bytes of PNG went in; out came {}", 160, 100, png.len(), summary(&answer));
        let thumbnail = answer["image"]["$blob"].as_str().context("the thumbnail is no blob")?;
        self.client(&["blob", "get", thumbnail, "--to", ".umbel/thumbnail.png"])
    }

    /// Runs a client verb with its output shown.
    fn client(&self, words: &[&str]) -> Result<()> {
        eprintln!("    $ umbel {}", shown(words));
        let status = umbel(&self.root).args(words).stdin(Stdio::null()).status()?;
        ensure!(status.success(), "`umbel {}` ended with {status}", shown(words));
        Ok(())
    }

    /// Submits a job and returns its result, JSON text.
    fn result(&self, call: &[&str]) -> Result<String> {
        let words = [&["job", "submit"], call, &["--wait", "-o", "json"]].concat();
        eprintln!("    $ umbel {}", shown(&words));
        let output = umbel(&self.root).args(&words).stdin(Stdio::null()).stderr(Stdio::inherit()).output()?;
        ensure!(output.status.success(), "`umbel {}` ended with {}", shown(&words), output.status);
        let job: serde_json::Value = serde_json::from_slice(&output.stdout).context("the answer is not JSON")?;
        Ok(job.get("result").context("the job has no result")?.to_string())
    }

    /// Leaves the service up until it is stopped.
    fn stay(&mut self) -> Result<()> {
        let umbel = test::BINARY;
        eprintln!("\nUmbel runs at {}. Token and address for the client are in .umbel/profile.json. Try:\n", self.url);
        for next in [
            "job submit add 20 22 --wait",
            "job submit primes 50 --wait",
            "job list",
            "task show process_order",
            "worker list",
        ] {
            eprintln!("    {umbel} {next}");
        }
        eprintln!("\nIts log is .umbel/dev.log. Ctrl-C stops it.");
        ignore_interrupts();
        let status = self.child.wait()?;
        // Ctrl-C reached it too; it drains and ends by itself.
        eprintln!("\n`umbel dev` ended with {status}");
        Ok(())
    }

    fn stop(&mut self) -> Result<()> {
        // SAFETY: kill has no memory effects; the child was not waited for, so its id is still its own.
        unsafe { libc::kill(self.child.id() as i32, libc::SIGTERM) };
        let status = self.child.wait()?;
        ensure!(status.success(), "`umbel dev` ended with {status} after SIGTERM:\n{}", tail(&self.log));
        Ok(())
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The binary, told nothing by the caller's environment.
fn umbel(root: &Path) -> Command {
    let mut command = Command::new(root.join(test::BINARY));
    command.current_dir(root);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("UMBEL_")) {
        command.env_remove(name);
    }
    command
}

/// The kernel ends the child when we die without ending it.
fn end_with_us(command: &mut Command) {
    use std::os::unix::process::CommandExt;
    #[cfg(target_os = "linux")]
    // SAFETY: prctl is async-signal-safe.
    unsafe {
        command.pre_exec(|| {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM);
            Ok(())
        });
    }
    #[cfg(not(target_os = "linux"))]
    let _ = command;
}

/// Ctrl-C is for the service, which shares our terminal; we wait for its end.
fn ignore_interrupts() {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(libc::SIGINT, libc::SIG_IGN) };
}

fn say(what: &str) {
    eprintln!("\n  {what}");
}

fn shown(words: &[&str]) -> String {
    let mut command = Command::new("umbel");
    command.args(words);
    line(&command)["umbel ".len()..].to_owned()
}

fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, PORT)).or_else(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    Ok(listener.context("no free port on 127.0.0.1")?.local_addr()?.port())
}

fn alive(port: u16) -> bool {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(1)) else { return false };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(1)));
    let mut answer = [0; 12];
    stream.write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").is_ok()
        && stream.read_exact(&mut answer).is_ok()
        && answer == *b"HTTP/1.1 200"
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(15)..].join("\n")
}

fn json(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The fields of an answer with long texts left out.
fn summary(answer: &serde_json::Value) -> String {
    let field = |(key, value): (&String, &serde_json::Value)| match value.as_str() {
        Some(text) if text.len() > 40 => format!("{key}: {} characters", text.len()),
        _ => format!("{key}: {value}"),
    };
    answer.as_object().map_or_else(|| answer.to_string(), |o| o.iter().map(field).collect::<Vec<_>>().join(", "))
}

/// A colour gradient as a PNG, its data stored and not compressed.
fn gradient_png(width: u32, height: u32) -> Vec<u8> {
    let mut raw = Vec::new();
    for y in 0..height {
        raw.push(0); // no filter
        for x in 0..width {
            raw.extend([(x * 255 / width) as u8, (y * 255 / height) as u8, 160]);
        }
    }
    let mut zlib = vec![0x78, 0x01];
    let blocks: Vec<&[u8]> = raw.chunks(0xFFFF).collect();
    for (i, block) in blocks.iter().enumerate() {
        let length = block.len() as u16;
        zlib.push(u8::from(i + 1 == blocks.len()));
        zlib.extend(length.to_le_bytes());
        zlib.extend((!length).to_le_bytes());
        zlib.extend(*block);
    }
    let (a, b) = raw.iter().fold((1u32, 0u32), |(a, b), &byte| {
        let a = (a + u32::from(byte)) % 65_521;
        (a, (b + a) % 65_521)
    });
    zlib.extend(((b << 16) | a).to_be_bytes());
    let mut header = Vec::new();
    header.extend(width.to_be_bytes());
    header.extend(height.to_be_bytes());
    header.extend([8, 2, 0, 0, 0]); // 8 bits, RGB
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [(b"IHDR", header), (b"IDAT", zlib), (b"IEND", Vec::new())] {
        png.extend((data.len() as u32).to_be_bytes());
        let body = [kind.as_slice(), &data].concat();
        png.extend(&body);
        png.extend(crc32(&body).to_be_bytes());
    }
    png
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |c, _| if c & 1 == 1 { 0xEDB8_8320 ^ (c >> 1) } else { c >> 1 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_png() {
        assert_eq!(crc32(b"123456789"), 0xCBF4_3926);
        assert_eq!(crc32(b"IEND"), 0xAE42_6082);
    }
}
