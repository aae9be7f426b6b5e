//! Servers that others can reach without TLS: a warning at the start, and a note in the data folder for `umbel doctor`, which sees
//! the store and not the servers.
//!
//! A note is renewed as long as its server runs. One that is old is of a server that was killed, and counts no more.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use tokio::task::JoinHandle;

const FOLDER: &str = "listening";
const RENEW_EVERY: Duration = Duration::from_secs(30);
/// A note that was not renewed for so long is of nobody.
const OLD: Duration = Duration::from_secs(120);
/// Notes that are read, and bytes of each.
const MAX_NOTES: usize = 1_000;
const MAX_BYTES: u64 = 256;

/// What to do about it.
pub const HELP: &str =
    "give it --tls-cert and --tls-key, or --behind-proxy if clients reach it through a proxy that speaks https";

/// A note in the data folder, renewed until it is dropped.
#[derive(Debug)]
pub struct Note {
    file: PathBuf,
    task: JoinHandle<()>,
}

impl Drop for Note {
    fn drop(&mut self) {
        self.task.abort();
        // It would be old in two minutes.
        let _ = fs::remove_file(&self.file);
    }
}

/// Warns of a server that listens beyond this machine without TLS, and notes it.
pub fn warn(address: SocketAddr, is_encrypted: bool, behind_proxy: bool, data: &Path) -> Option<Note> {
    if is_encrypted || behind_proxy || address.ip().is_loopback() {
        return None;
    }
    tracing::warn!(
        %address,
        "the API listens beyond this machine without TLS: tokens, arguments and results can be read on the way; {HELP}"
    );
    // The folder may be shared by machines.
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(64).collect();
    let file = data.join(FOLDER).join(format!("{host}-{}", std::process::id()));
    let text = format!("{address} on {host}");
    let task = tokio::spawn({
        let file = file.clone();
        async move {
            loop {
                if let Err(error) = write(&file, &text) {
                    tracing::debug!(%error, "the note for umbel doctor was not written");
                }
                tokio::time::sleep(RENEW_EVERY).await;
            }
        }
    });
    Some(Note { file, task })
}

fn write(file: &Path, text: &str) -> io::Result<()> {
    file.parent().map_or(Ok(()), fs::create_dir_all)?;
    fs::write(file, text)
}

/// The servers of this data folder that listen beyond their machine without TLS.
pub fn noted(data: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(data.join(FOLDER)) else { return Vec::new() };
    let fresh = |path: &Path| -> io::Result<Option<String>> {
        let metadata = fs::metadata(path)?;
        let age = SystemTime::now().duration_since(metadata.modified()?).unwrap_or_default();
        if age > OLD || !metadata.is_file() || metadata.len() > MAX_BYTES {
            return Ok(None);
        }
        fs::read_to_string(path).map(Some)
    };
    let paths = entries.take(MAX_NOTES).filter_map(|entry| Some(entry.ok()?.path()));
    let mut all: Vec<String> = paths.filter_map(|path| fresh(&path).ok().flatten()).collect();
    all.sort();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_a_server_that_others_reach_without_tls_is_noted_while_it_runs() {
        let data = tempfile::tempdir().unwrap();
        let [near, far] = ["127.0.0.1:1", "0.0.0.0:7717"].map(|text| text.parse().unwrap());
        for (address, tls, proxy) in [(near, false, false), (far, true, false), (far, false, true)] {
            assert!(warn(address, tls, proxy, data.path()).is_none());
        }
        let note = warn(far, false, false, data.path()).unwrap();
        while noted(data.path()).is_empty() {
            tokio::task::yield_now().await;
        }
        assert!(noted(data.path())[0].starts_with("0.0.0.0:7717 on "));
        let old = fs::File::options().write(true).open(&note.file).unwrap();
        old.set_modified(SystemTime::now() - OLD - RENEW_EVERY).unwrap();
        assert_eq!(noted(data.path()), Vec::<String>::new());
        let file = note.file.clone();
        drop(note);
        assert!(!file.exists());
    }
}
