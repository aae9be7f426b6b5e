//! The master keys of a process: from the environment, from files that only its user reads, and from a program.

use std::{
    fs,
    io::{self, Read as _, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{io::AsyncReadExt as _, process::Command};
use umbel_secrets::{MasterKey, MasterKeys, SecretValue, hold_secrets};

use crate::{Failure, Result, args::MasterKeyFlags, core_dumps};

const VARIABLE: &str = "UMBEL_MASTER_KEY";
/// Of a file, and of what a program prints, bytes.
const MAX_BYTES: u64 = 16 << 10;
/// How long a program has.
const PATIENCE: Duration = Duration::from_secs(30);

/// The keys that the flags and the environment name. None of them: there are no secrets.
pub async fn load(flags: &MasterKeyFlags) -> Result<Arc<MasterKeys>> {
    let mut keys = MasterKeys::default();
    if let Ok(text) = std::env::var(VARIABLE) {
        let text = SecretValue::new(text.into_bytes());
        add(&mut keys, &text, VARIABLE)?;
    }
    for file in &flags.master_key_file {
        add(&mut keys, &read(file)?, &file.display().to_string())?;
    }
    if let Some(command) = &flags.master_key_command {
        add(&mut keys, &printed(command).await?, "the output of --master-key-command")?;
    }
    if !keys.is_empty() {
        core_dumps::forbid();
    }
    Ok(Arc::new(keys))
}

/// The same for `umbel dev`, which makes a key in its data folder if none is named.
pub async fn load_or_make(flags: &MasterKeyFlags, data: &Path) -> Result<Arc<MasterKeys>> {
    let named = load(flags).await?;
    if !named.is_empty() {
        return Ok(named);
    }
    let file = data.join("master.key");
    if !file.exists() {
        make(&file).map_err(|error| Failure::file(file.display(), &error))?;
    }
    load(&MasterKeyFlags { master_key_file: vec![file], master_key_command: None }).await
}

fn add(keys: &mut MasterKeys, text: &SecretValue, shown: &str) -> Result {
    let text = std::str::from_utf8(text.bytes()).map_err(|_| unusable(format!("{shown} is no text")))?;
    keys.add(text, shown).map_err(|error| unusable(error.to_string()))
}

fn unusable(message: String) -> Failure {
    Failure::new("master_key", message).help("`openssl rand -base64 32 > master.key; chmod 600 master.key` makes one")
}

/// What is in a file that nobody else may read.
fn read(path: &Path) -> Result<SecretValue> {
    let mut text = Vec::new();
    let read = fs::File::open(path).and_then(|file| {
        let mode = file.metadata()?.permissions().mode();
        if mode & 0o077 != 0 {
            let problem = format!("others may read or write it (mode {:o}); run chmod 600 on it", mode & 0o777);
            return Err(io::Error::other(problem));
        }
        file.take(MAX_BYTES).read_to_end(&mut text)
    });
    let text = SecretValue::new(text);
    read.map_err(|error| Failure::file(path.display(), &error))?;
    Ok(text)
}

/// What a program prints. It is started directly: no shell reads the line.
async fn printed(command: &str) -> Result<SecretValue> {
    hold_secrets();
    let failed = |problem: String| Failure::new("master_key_command", format!("--master-key-command: {problem}"));
    let mut words = command.split_whitespace();
    let program = words.next().ok_or_else(|| failed("it names no program".into()))?;
    let mut command = Command::new(program);
    command.args(words).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true).env_remove(VARIABLE);
    let mut child = command.spawn().map_err(|error| failed(format!("it cannot be started: {error}")))?;
    let mut text = Vec::new();
    let reading = async {
        if let Some(stdout) = child.stdout.take() {
            stdout.take(MAX_BYTES).read_to_end(&mut text).await?;
        }
        child.wait().await
    };
    let ended = tokio::time::timeout(PATIENCE, reading).await;
    let text = SecretValue::new(text);
    match ended {
        Err(_) => Err(failed(format!("it did not end within {} s", PATIENCE.as_secs()))),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Ok(Ok(status)) if !status.success() => Err(failed(format!("it ended with {status}"))),
        Ok(Ok(_)) => Ok(text),
    }
}

fn make(path: &Path) -> io::Result<()> {
    let key = MasterKey::generate().map_err(io::Error::other)?;
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(key.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(files: &[&Path], command: Option<&str>) -> MasterKeyFlags {
        MasterKeyFlags {
            master_key_file: files.iter().map(|file| file.to_path_buf()).collect(),
            master_key_command: command.map(str::to_owned),
        }
    }

    #[tokio::test]
    async fn keys_come_from_private_files_and_from_programs() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        let made = load_or_make(&flags(&[], None), data).await.unwrap();
        let file = data.join("master.key");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        let command = format!("cat {}", file.display());
        for given in [flags(&[&file], None), flags(&[], Some(&command))] {
            let keys = load_or_make(&given, data).await.unwrap();
            assert_eq!(keys.current().unwrap().id(), made.current().unwrap().id());
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let refused = load(&flags(&[&file], None)).await.unwrap_err();
        assert!(refused.message.contains("chmod 600"), "{}", refused.message);
        for (command, says) in
            [("", "no program"), ("/no/such/program", "started"), ("false", "ended with"), ("true", "no key")]
        {
            let failure = load(&flags(&[], Some(command))).await.unwrap_err();
            assert!(failure.message.contains(says), "{command}: {}", failure.message);
        }
    }
}
