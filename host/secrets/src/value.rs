//! The value of a secret in memory: zeroed when it is dropped, and never shown.

use std::fmt;

use zeroize::Zeroizing;

use crate::{Error, Result, hold_secrets};

/// The shortest value, bytes: what is shorter is found by accident in texts of which it is no part, and by trying.
pub const MIN_BYTES: usize = 8;
/// The longest value that is put into requests, bytes.
pub const MAX_SENT_BYTES: usize = 8 << 10;
/// The longest value that is only revealed, bytes.
pub const MAX_REVEALED_BYTES: usize = 64 << 10;

/// A value in clear. Keep it for as short as possible.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretValue(Zeroizing<Vec<u8>>);

impl SecretValue {
    /// Takes a value over. From here on the process zeroes the memory that it gives back.
    pub fn new(bytes: Vec<u8>) -> Self {
        hold_secrets();
        Self(Zeroizing::new(bytes))
    }

    pub fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// Checks the length, and for a value that is put into requests that a header can have it.
    pub(crate) fn check(&self, is_sent: bool) -> Result<()> {
        let (len, max) = (self.0.len(), if is_sent { MAX_SENT_BYTES } else { MAX_REVEALED_BYTES });
        if !(MIN_BYTES..=max).contains(&len) {
            let what = if is_sent { "a value that is put into requests" } else { "a value" };
            return Err(Error::Invalid(format!("{what} has {MIN_BYTES} to {max} bytes, and this one has {len}")));
        }
        let is_visible = |byte: &u8| byte.is_ascii_graphic() || *byte == b' ';
        let has_edges = self.0.first() == Some(&b' ') || self.0.last() == Some(&b' ');
        if is_sent && (has_edges || !self.0.iter().all(is_visible)) {
            let rule = "a value that is put into headers has visible ASCII characters only, and no line end or space around it";
            let help = "set it without hosts and with `reveal` if code is to use it in another way";
            return Err(Error::Invalid(format!("{rule}; {help}")));
        }
        Ok(())
    }
}

impl fmt::Debug for SecretValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretValue(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_never_shown() {
        let value = SecretValue::new(b"correct horse".to_vec());
        assert!(!format!("{value:?} {:?}", Some(&value)).contains("horse"));
    }

    #[test]
    fn a_value_for_headers_is_visible_and_bounded_and_another_one_is_any_bytes() {
        let check = |bytes: &[u8], is_sent| SecretValue::new(bytes.to_vec()).check(is_sent).is_ok();
        assert!(check(b"12345678", true) && check(b"two words", true) && check(&[0; 65_536], false));
        for wrong in [&b"1234567"[..], b"12345678\n", b" 12345678", b"1234\r\n5678", &[0xff; 8], &[b'x'; 8_193]] {
            assert!(!check(wrong, true), "{} bytes", wrong.len());
        }
        assert!(!check(b"1234567", false) && !check(&[0; 65_537], false));
    }
}
