//! The data folder: modules, compiled code, the host's key, the SQLite file, and the lock of `umbel dev`.

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use umbel_capabilities::http::HttpClient;
use umbel_model::PolicyBounds;
use umbel_modules::{CodeCache, DEFAULT_MAX_CODE_BYTES, HostKey, ModuleStore};
use umbel_sandbox::{CompileLimits, Compiler, CompilerCommand, Sandbox, SandboxConfig};
use umbel_secrets::MasterKeys;
use umbel_worker::{Runtime, RuntimeConfig};

use crate::{Failure, Result};

/// Slots beyond the jobs that run at once: modules that describe themselves.
const SPARE_SLOTS: u32 = 4;

/// The embedded broker's file, and what SQLite keeps beside it.
const DATABASE_FILES: [&str; 3] = ["umbel.db", "umbel.db-wal", "umbel.db-shm"];

/// A data folder that exists.
#[derive(Debug, Clone)]
pub struct Data {
    folder: PathBuf,
}

impl Data {
    /// Makes the folder, for its owner only, if it is missing. From here on, whatever this process writes is for its
    /// owner only, wherever that is: arguments and results of jobs, and code that is loaded as it is.
    pub fn open(folder: &Path) -> Result<Self> {
        // SAFETY: sets one number of the process, touches no memory and cannot fail.
        unsafe { libc::umask(0o077) };
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(folder);
        let made = made.and_then(|()| folder.canonicalize());
        let data = Self { folder: made.map_err(|e| unusable(folder, &e))? };
        data.close_database().map_err(|e| unusable(&data.folder, &e))?;
        Ok(data)
    }

    /// Takes the database, which an earlier version may have made readable, from all but its owner. Only its owner can.
    fn close_database(&self) -> io::Result<()> {
        for name in DATABASE_FILES {
            let closed = fs::set_permissions(self.folder.join(name), fs::Permissions::from_mode(0o600));
            match closed.map_err(|error| (error.kind(), error)) {
                Ok(()) | Err((io::ErrorKind::NotFound, _)) => {}
                Err((io::ErrorKind::PermissionDenied, _)) => {
                    tracing::warn!(file = name, "the database belongs to another user, who decides who may read it");
                }
                Err((_, error)) => return Err(error),
            }
        }
        Ok(())
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The embedded broker's file.
    pub fn database(&self) -> PathBuf {
        self.folder.join(DATABASE_FILES[0])
    }

    /// Makes this process the only one of the folder, as long as it keeps the file open.
    pub fn lock(&self) -> Result<File> {
        let path = self.folder.join("lock");
        let file = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let mut file = file.map_err(|e| unusable(&self.folder, &e))?;
        match file.try_lock() {
            Ok(()) => {
                // For the message of whoever comes second; nothing reads it otherwise.
                let _ = file.set_len(0).and_then(|()| write!(file, "{}", std::process::id()));
                Ok(file)
            }
            Err(fs::TryLockError::WouldBlock) => {
                let mut owner = String::new();
                let _ = file.rewind();
                let _ = (&mut file).take(16).read_to_string(&mut owner);
                let owner: String = owner.chars().filter(char::is_ascii_digit).collect();
                let owner = if owner.is_empty() { String::new() } else { format!(" (process {owner})") };
                let message = format!("another umbel{owner} uses the data folder {}", self.folder.display());
                Err(Failure::new("data_in_use", message).help("stop it, or give this one another folder with --data"))
            }
            Err(fs::TryLockError::Error(error)) => Err(unusable(&self.folder, &error)),
        }
    }

    /// Where uploaded modules are.
    pub async fn modules(&self) -> Result<ModuleStore> {
        ModuleStore::local(self.folder.join("modules")).await.map_err(|e| stored(&e))
    }

    /// The sandbox and everything that makes modules ready for it.
    pub async fn runtime(
        &self,
        store: ModuleStore,
        concurrency: u32,
        bounds: PolicyBounds,
        http: Arc<HttpClient>,
        master_keys: Arc<MasterKeys>,
    ) -> Result<Runtime> {
        let key = HostKey::load_or_create(self.folder.join("host.key")).map_err(|e| stored(&e))?;
        let code = CodeCache::open(self.folder.join("code"), key, DEFAULT_MAX_CODE_BYTES).map_err(|e| stored(&e))?;
        let (config, sandbox) = (
            RuntimeConfig { bounds, http: Some(http), master_keys, ..RuntimeConfig::default() },
            sandbox(concurrency)?,
        );
        Ok(Runtime::new(config, store, code, compiler(), sandbox))
    }
}

/// Compiles in a child that is this very binary, even if its file was replaced meanwhile.
pub fn compiler() -> Compiler {
    let command =
        CompilerCommand { program: PathBuf::from("/proc/self/exe"), args: vec![crate::serve::COMPILE_VERB.to_owned()] };
    Compiler::new(command, CompileLimits::default())
}

/// A sandbox for so many attempts at once.
pub fn sandbox(concurrency: u32) -> Result<Sandbox> {
    let config = SandboxConfig { slots: concurrency.saturating_add(SPARE_SLOTS), ..SandboxConfig::default() };
    Sandbox::new(config).map_err(|e| {
        Failure::new("sandbox", e.to_string()).help("lower --concurrency: each job reserves address space")
    })
}

fn unusable(folder: &Path, error: &io::Error) -> Failure {
    Failure::new("data_folder", format!("the data folder {} cannot be used: {error}", folder.display()))
        .help("name a folder that this user may write with --data")
}

fn stored(error: &umbel_modules::Error) -> Failure {
    Failure::new(error.code(), error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_process_of_a_data_folder_is_refused_with_words() {
        let folder = tempfile::tempdir().unwrap();
        let data = Data::open(folder.path()).unwrap();
        let _first = data.lock().unwrap();
        let second = data.lock().unwrap_err();
        assert_eq!(second.code, "data_in_use");
        assert!(second.message.contains(&std::process::id().to_string()), "{}", second.message);
    }

    #[test]
    fn what_is_in_a_data_folder_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let mode = |name: &str| fs::metadata(folder.path().join(name)).unwrap().permissions().mode() & 0o777;
        fs::write(folder.path().join("umbel.db"), "").unwrap();
        fs::set_permissions(folder.path().join("umbel.db"), fs::Permissions::from_mode(0o644)).unwrap();
        Data::open(folder.path()).unwrap();
        fs::write(folder.path().join("new"), "").unwrap();
        assert_eq!((mode("umbel.db"), mode("new")), (0o600, 0o600));
    }

    #[test]
    fn a_folder_below_a_file_is_refused_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let refused = Data::open(&file.path().join("data")).unwrap_err();
        assert_eq!(refused.code, "data_folder");
    }
}
