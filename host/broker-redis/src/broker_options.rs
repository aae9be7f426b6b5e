//! Broker options as bytes: what `OPTIONS` in `library/limits.lua` says. Brokers never give them back, so nothing reads them here.

use umbel_broker::{BrokerOptions, Error, JobLimits, Result, Unique, Wins};
use umbel_model::{OnWorkerLost, Rate};

use crate::bytes::Packed;

/// Longest limit key or unique key, bytes; the contract says 64.
const MAX_KEY_BYTES: usize = 128;
/// Version of the format.
const VERSION: u8 = 1;

/// For `more:<member>`.
pub(crate) fn broker_options(broker_options: &BrokerOptions) -> Result<Vec<u8>> {
    let limits = broker_options.limits.clone().unwrap_or_default();
    let JobLimits { rate, concurrency, key, key_rate, key_concurrency } = &limits;
    let key = checked(key.as_deref().unwrap_or_default())?;
    let on_lost = match broker_options.on_lost {
        OnWorkerLost::Requeue => 0,
        OnWorkerLost::Dead => 1,
        OnWorkerLost::Fail => 2,
    };
    let packed = Packed::default().u8(VERSION).u8(on_lost).u8(u8::from(broker_options.limits.is_some()));
    let packed = with_rate(packed, rate.as_ref()).u32(*concurrency);
    let packed = with_rate(packed, key_rate.as_ref()).u32(*key_concurrency).name(key);
    Ok(match &broker_options.unique {
        None => packed.u8(0).ms(0).ms(0).name(""),
        Some(Unique { key, wins, for_ms, max_wait_ms }) => {
            let wins = match wins {
                Wins::First => 1,
                Wins::Latest => 2,
            };
            packed.u8(wins).ms(*for_ms).ms(*max_wait_ms).name(checked(key)?)
        }
    }
    .done())
}

fn with_rate(packed: Packed, rate: Option<&Rate>) -> Packed {
    match rate {
        None => packed.u32(0).ms(0).u32(0),
        Some(Rate { count, period_ms, burst }) => packed.u32((*count).max(1)).ms(*period_ms).u32(*burst),
    }
}

/// A key gets into names of keys, so that it must not have what divides them.
fn checked(key: &str) -> Result<&str> {
    if key.len() > MAX_KEY_BYTES || !key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') {
        return Err(Error::Failed(format!(
            "a limit key or unique key is not letters and digits, at most {MAX_KEY_BYTES}"
        )));
    }
    Ok(key)
}
