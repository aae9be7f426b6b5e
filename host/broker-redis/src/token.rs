//! Names of what one process does over many calls.

/// A new one.
pub(crate) fn token() -> String {
    let mut random = [0; 8];
    // Without randomness two processes may take each other's work for their own: both add what is true.
    let _ = getrandom::fill(&mut random);
    u64::from_le_bytes(random).to_string()
}
