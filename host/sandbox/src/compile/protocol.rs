//! The protocol of parent and compiler child: a length, a JSON header, and raw bytes until the end.
//!
//! parent → child: `Request`, then the module. child → parent: `Reply`, then the compiled code if it is `Ok`.

use std::io::{self, Read};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{compile::admission::AdmissionLimits, error::CompileError};

/// Bytes of a header.
pub(crate) const MAX_HEADER_BYTES: usize = 4 << 20;

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    pub(crate) max_module_bytes: u64,
    /// The largest linear memory that the worker's pool holds.
    pub(crate) max_memory_bytes: u64,
    pub(crate) admission: AdmissionLimits,
}

pub(crate) type Reply = Result<Report, CompileError>;

/// The facts about a module that the child compiled.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) core_module: bool,
    pub(crate) imports: Vec<String>,
    pub(crate) fingerprint: String,
}

pub(crate) fn header(value: &impl Serialize) -> io::Result<Vec<u8>> {
    let json = serde_json::to_vec(value)?;
    let length = u32::try_from(json.len()).map_err(io::Error::other)?;
    let mut out = length.to_le_bytes().to_vec();
    out.extend_from_slice(&json);
    Ok(out)
}

pub(crate) fn read_header<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_HEADER_BYTES {
        return Err(io::Error::other("the header is too long"));
    }
    let mut json = vec![0; length];
    from.read_exact(&mut json)?;
    Ok(serde_json::from_slice(&json)?)
}
