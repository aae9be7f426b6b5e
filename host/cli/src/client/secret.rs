//! `umbel secret`. A value is read from a file, stdin or a prompt, sent, and forgotten.

use std::{
    fs,
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    os::fd::AsRawFd as _,
    path::Path,
};

use umbel_client::Request;
use umbel_model::SecretName;
use umbel_secrets::{MAX_REVEALED_BYTES, SecretValue};

use super::{Context, input};
use crate::{Failure, Result, args::SecretVerb, core_dumps};

const COLUMNS: &str = "NAME, VERSION, HOSTS, BODY, REVEAL, SET = updated_at";
const FIELDS: &str = "name, version, hosts, body, reveal, created = created_at, set = updated_at";

pub async fn run(ctx: &Context, verb: SecretVerb) -> Result {
    let client = &ctx.client;
    match verb {
        SecretVerb::Set { name, host, body, reveal, value_file, if_absent, if_version, .. } => {
            core_dumps::forbid();
            let value = read(&name, value_file.as_deref(), !host.is_empty())?;
            let mut request = client.put(path(&name)).body("application/octet-stream", value.bytes().to_vec());
            let flags = [("body", body), ("reveal", reveal)];
            if !host.is_empty() {
                request = request.query("hosts", host.join(","));
            }
            for (flag, _) in flags.into_iter().filter(|(_, is_set)| *is_set) {
                request = request.query(flag, "true");
            }
            if if_absent {
                request = request.header("if-none-match", "*");
            }
            ctx.show(of_version(request, if_version), FIELDS).await
        }
        SecretVerb::List => ctx.all("/v1/secrets", COLUMNS).await,
        SecretVerb::Show { name } => ctx.show(client.get(path(&name)), FIELDS).await,
        SecretVerb::Rm { name, if_version } => {
            of_version(client.delete(path(&name)), if_version).text().await?;
            ctx.terminal.line(name.as_str())
        }
        SecretVerb::Rotate { master: false } => {
            let rotate = client.post("/v1/secret-keys/rotate").repeatable();
            ctx.show(rotate, "sealed, keys deleted = keys_deleted, older keys kept = keys_kept").await
        }
        SecretVerb::Rotate { master: true } => {
            let rewrap = client.post("/v1/secret-keys/rewrap").repeatable();
            ctx.show(rewrap, "rewrapped, current, needed still = left").await
        }
    }
}

fn path(name: &SecretName) -> String {
    format!("/v1/secrets/{name}")
}

fn of_version(request: Request, version: Option<u64>) -> Request {
    match version {
        Some(version) => request.header("if-match", format!("\"{version}\"")),
        None => request,
    }
}

/// The value. `is_sent`: it is put into requests, where no line end can be.
fn read(name: &SecretName, file: Option<&Path>, is_sent: bool) -> Result<SecretValue> {
    let max = MAX_REVEALED_BYTES as u64 + 2;
    let bytes = match file {
        Some(file) if file != Path::new("-") => input::bytes(file.display(), fs::File::open(file), max)?,
        None if io::stdin().is_terminal() => return prompt(name),
        _ => input::bytes("stdin", Ok(io::stdin().lock()), max)?,
    };
    let too_large = || Failure::new("file_too_large", format!("a secret has at most {MAX_REVEALED_BYTES} bytes"));
    let mut bytes = bytes.ok_or_else(too_large)?;
    if is_sent && bytes.ends_with(b"\n") {
        bytes.pop();
        if bytes.ends_with(b"\r") {
            bytes.pop();
        }
    }
    Ok(SecretValue::new(bytes))
}

/// Asks for the value on the terminal, which shows nothing of it.
fn prompt(name: &SecretName) -> Result<SecretValue> {
    let failed = |error: &io::Error| Failure::file("the terminal", error);
    let _quiet = Quiet::start().map_err(|e| failed(&e))?;
    let mut stderr = io::stderr().lock();
    let asked = write!(stderr, "value of {name} (not shown): ").and_then(|()| stderr.flush());
    asked.map_err(|e| failed(&e))?;
    let mut line = Vec::new();
    let read = io::stdin().lock().read_until(b'\n', &mut line);
    let _ = writeln!(stderr);
    read.map_err(|e| failed(&e))?;
    while line.last().is_some_and(|byte| b"\r\n".contains(byte)) {
        line.pop();
    }
    Ok(SecretValue::new(line))
}

/// A terminal that shows nothing of what is typed, until this is dropped.
struct Quiet(libc::termios);

impl Quiet {
    fn start() -> io::Result<Self> {
        let fd = io::stdin().as_raw_fd();
        // SAFETY: the structure is plain numbers; the call fills it, or fails.
        let mut settings: libc::termios = unsafe { std::mem::zeroed() };
        // SAFETY: the descriptor is stdin's, and the structure is ours.
        if unsafe { libc::tcgetattr(fd, &mut settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        let before = Self(settings);
        settings.c_lflag &= !libc::ECHO;
        // SAFETY: as above.
        if unsafe { libc::tcsetattr(fd, libc::TCSAFLUSH, &settings) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        // SAFETY: the descriptor is stdin's, and the settings are those that it had.
        unsafe { libc::tcsetattr(io::stdin().as_raw_fd(), libc::TCSAFLUSH, &self.0) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_what_is_in_a_file_without_the_line_end_that_no_header_can_have() {
        let (file, name) = (tempfile::NamedTempFile::new().unwrap(), SecretName::new("a").unwrap());
        fs::write(file.path(), "the value\r\n").unwrap();
        assert_eq!(read(&name, Some(file.path()), true).unwrap().bytes(), b"the value");
        assert_eq!(read(&name, Some(file.path()), false).unwrap().bytes(), b"the value\r\n");
        fs::write(file.path(), vec![b'x'; MAX_REVEALED_BYTES + 3]).unwrap();
        assert_eq!(read(&name, Some(file.path()), true).unwrap_err().code, "file_too_large");
    }
}
