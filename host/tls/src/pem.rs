//! Reads certificates and keys from PEM files, up to a limit.

use std::{
    fs::File,
    io::{self, Read as _},
    path::Path,
};

use rustls::pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error as PemError, PemObject as _},
};

use crate::{Error, MAX_FILE_BYTES};

/// All certificates of a file, at least one.
pub(crate) fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    let bytes = bytes(file)?;
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    let all = read.map_err(|error| damaged(file, &error))?;
    if all.is_empty() {
        return Err(Error::NoCertificate { file: file.to_owned() });
    }
    Ok(all)
}

/// The first private key of a file.
pub(crate) fn key(file: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_slice(&bytes(file)?).map_err(|error| match error {
        PemError::NoItemsFound => Error::NoKey { file: file.to_owned() },
        other => damaged(file, &other),
    })
}

fn bytes(file: &Path) -> Result<Vec<u8>, Error> {
    let unreadable = |error: io::Error| Error::Unreadable { file: file.to_owned(), why: error.to_string() };
    let mut bytes = Vec::new();
    let opened = File::open(file).map_err(unreadable)?;
    opened.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::TooLarge { file: file.to_owned() });
    }
    Ok(bytes)
}

/// Without the library's words, which may quote what is in a file of keys.
fn damaged(file: &Path, error: &PemError) -> Error {
    let why = match error {
        PemError::MissingSectionEnd { .. } => "the line -----END …----- is missing",
        PemError::IllegalSectionStart { .. } => "a line -----BEGIN …----- is not closed",
        PemError::Base64Decode(_) => "what is between BEGIN and END is not Base64",
        _ => "it cannot be read as PEM",
    };
    Error::Damaged { file: file.to_owned(), why: why.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_certificate_and_no_key_is_refused_with_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("x.pem");
        let told = |content: &str| {
            std::fs::write(&file, content).unwrap();
            (certificates(&file).unwrap_err().to_string(), key(&file).unwrap_err().to_string())
        };
        let (certificate, key) = told("nothing");
        assert!(
            certificate.contains("x.pem has no certificate") && key.contains("no private key"),
            "{certificate} {key}"
        );
        let half = "-----BEGIN CERTIFICATE-----\nMIIB\n";
        assert!(told(half).0.contains("END"), "{}", told(half).0);
        let scribbled = "-----BEGIN CERTIFICATE-----\n%%%%\n-----END CERTIFICATE-----\n";
        assert!(told(scribbled).0.contains("Base64"), "{}", told(scribbled).0);
        let encrypted = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n";
        assert!(told(encrypted).1.contains("without a passphrase"));
        let missing = certificates(Path::new("/nowhere/c.pem")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/c.pem cannot be read"), "{missing}");
    }

    #[test]
    fn a_file_is_read_up_to_its_limit() {
        let file = tempfile::NamedTempFile::new().unwrap();
        file.as_file().set_len(MAX_FILE_BYTES + 1).unwrap();
        assert!(matches!(certificates(file.path()), Err(Error::TooLarge { .. })));
    }
}
