//! The profile: where the server is and the token for it, so that the next command just works.

use std::{
    fs, io,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// A server and a token for it. The file is for its owner only.
#[derive(Clone, Serialize, Deserialize)]
pub struct Profile {
    pub url: String,
    pub token: String,
    /// The authorities to trust with https, if not the system's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

const FILE: &str = "profile.json";
/// An address and a token are far shorter.
const MAX_BYTES: u64 = 64 << 10;

impl Profile {
    /// Reads the profile of a data folder; none if there is none that can be read, or if another user may have written
    /// it: it would say where this user's tokens and arguments go.
    pub fn read(folder: &Path) -> Option<Self> {
        // Whatever lies there by that name must not keep a command waiting, as a pipe would.
        let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(folder.join(FILE)).ok()?;
        let metadata = file.metadata().ok()?;
        // SAFETY: takes nothing, touches no memory and cannot fail.
        let me = unsafe { libc::geteuid() };
        if !metadata.is_file() || metadata.uid() != me || metadata.mode() & 0o022 != 0 {
            return None;
        }
        serde_json::from_reader(io::Read::take(file, MAX_BYTES)).ok()
    }

    /// Writes it into `folder`, readable by its owner only, never half.
    pub fn write(&self, folder: &Path) -> io::Result<PathBuf> {
        let path = folder.join(FILE);
        let temporary = folder.join(format!("{FILE}.{}", std::process::id()));
        // One left by a crash may have other permissions.
        let _ = fs::remove_file(&temporary);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&temporary)?;
        io::Write::write_all(&mut file, serde_json::to_string_pretty(self)?.as_bytes())?;
        fs::rename(&temporary, &path)?;
        Ok(path)
    }

    /// The nearest one: `.umbel/` here or in a folder above, then `~/.config/umbel/`.
    pub fn find() -> Option<Self> {
        let here = std::env::current_dir().ok()?;
        let near = here.ancestors().find_map(|folder| Self::read(&folder.join(".umbel")));
        near.or_else(|| {
            let home = std::env::var_os("XDG_CONFIG_HOME").map(PathBuf::from);
            let config = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".config")))?;
            Self::read(&config.join("umbel"))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn a_profile_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let profile = Profile { url: "http://h".into(), token: "t".into(), ca_file: None };
        let path = profile.write(folder.path()).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(Profile::read(folder.path()).unwrap().url, "http://h");
    }

    #[test]
    fn a_profile_that_others_may_write_is_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let path = Profile { url: "http://h".into(), token: "t".into(), ca_file: None }.write(folder.path()).unwrap();
        for (mode, read) in [(0o644, true), (0o660, false), (0o602, false), (0o600, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(Profile::read(folder.path()).is_some(), read, "{mode:o}");
        }
        // SAFETY: takes nothing, touches no memory and cannot fail.
        if unsafe { libc::geteuid() } == 0 {
            std::os::unix::fs::chown(&path, Some(12_345), None).unwrap();
            assert!(Profile::read(folder.path()).is_none());
        }
    }
}
