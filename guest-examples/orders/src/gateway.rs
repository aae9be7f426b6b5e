//! A payment gateway in test mode: the token decides what happens, as the test tokens of real providers do.
//!
//! Invariants: one idempotency key is charged once, however often it is asked; a caller with an older fence than one
//! already seen is stale (another worker has taken its job over) and is refused.
//!
//! It lives inside the guest, because a sandbox reaches no network; so between attempts only the tests keep one.

use std::{collections::HashMap, fmt};

/// Tokens that succeed at once, after two busy attempts, and never.
pub const TOKEN_OK: &str = "tok_ok";
pub const TOKEN_BUSY_TWICE: &str = "tok_busy_twice";
pub const TOKEN_SLOW_DOWN: &str = "tok_slow_down";
pub const TOKEN_DECLINED: &str = "tok_declined";

/// A request to charge.
#[derive(Debug, Clone, Copy)]
pub struct Charge<'a> {
    pub idempotency_key: &'a str,
    pub fence: u64,
    pub attempt: u32,
    pub token: &'a str,
    pub amount_cents: u64,
}

/// Why a charge did not happen.
#[derive(Debug, PartialEq, Eq)]
pub enum GatewayError {
    /// Temporary: the gateway is overloaded.
    Busy,
    /// Temporary: ask again after so many seconds.
    SlowDown(u64),
    /// Permanent: the bank said no.
    Declined,
    /// Permanent: no such token.
    UnknownToken,
    /// Somebody else works on this charge now.
    StaleFence,
}

impl fmt::Display for GatewayError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy => f.write_str("the payment gateway is busy"),
            Self::SlowDown(seconds) => write!(f, "the payment gateway asks to wait {seconds} s"),
            Self::Declined => f.write_str("the card was declined"),
            Self::UnknownToken => f.write_str("the payment token is not known"),
            Self::StaleFence => f.write_str("a newer delivery of this job is charging"),
        }
    }
}

impl std::error::Error for GatewayError {}

/// The gateway's books.
#[derive(Debug, Default)]
pub struct Gateway {
    charges: HashMap<String, u64>,
    fences: HashMap<String, u64>,
}

impl Gateway {
    /// Charges once per key; true if this call did it.
    pub fn charge(&mut self, charge: Charge<'_>) -> Result<bool, GatewayError> {
        let fence = self.fences.entry(charge.idempotency_key.to_owned()).or_default();
        if charge.fence < *fence {
            return Err(GatewayError::StaleFence);
        }
        *fence = charge.fence;
        if self.charges.contains_key(charge.idempotency_key) {
            return Ok(false);
        }
        match charge.token {
            TOKEN_OK => {}
            TOKEN_BUSY_TWICE if charge.attempt > 2 => {}
            TOKEN_BUSY_TWICE => return Err(GatewayError::Busy),
            TOKEN_SLOW_DOWN if charge.attempt > 1 => {}
            TOKEN_SLOW_DOWN => return Err(GatewayError::SlowDown(1)),
            TOKEN_DECLINED => return Err(GatewayError::Declined),
            _ => return Err(GatewayError::UnknownToken),
        }
        self.charges.insert(charge.idempotency_key.to_owned(), charge.amount_cents);
        Ok(true)
    }

    /// The charge that was made with this key, if any.
    #[cfg(test)]
    pub fn charged(&self, idempotency_key: &str) -> Option<u64> {
        self.charges.get(idempotency_key).copied()
    }
}
