//! The JSON form of a timing: an object `when`, beside `zone`, `starts_at` and `ends_at`.

use std::{fmt, marker::PhantomData};

use jiff::Timestamp;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error as _, SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use umbel_model::UnixMs;

use crate::{cron::DayRule, error::shown, solar::SolarEvent};

/// A timing as it is written. `Timing::new` checks it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TimingSpec {
    pub when: When,
    /// A name of the IANA zone database. Default: UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Nothing fires before it; a fire at it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_at: Option<Time>,
    /// Nothing fires at it or after it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ends_at: Option<Time>,
}

/// Exactly one of `cron`, `every`, `solar` and `at`, with what belongs to it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct When {
    /// Cron expressions, at most 32 of at most 256 bytes: all times of all of them, each once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cron: Option<OneOrMany<String>>,
    /// With `cron` (and for the expressions of `exclude`): how the two day fields go together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub days: Option<DayRule>,
    /// An interval: `90s`, `2h` (elapsed time), `1 day`, `2 weeks`, `1 month`, `1 quarter`, `1 year` (calendar of the
    /// zone). From 1 s to 10 years.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub every: Option<String>,
    /// With `every`: a time from which intervals are counted, forwards and backwards; for those of the calendar its
    /// local second. Default: 1970-01-01T00:00, of UTC for elapsed time and of the zone for the calendar, and for
    /// whole weeks the first Monday of 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub anchor: Option<Time>,
    /// A solar event at a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub solar: Option<SolarSpec>,
    /// One-off times, at most 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<OneOrMany<Time>>,
    /// Cron expressions, at most 32. A time is left out when the zone's clock shows a time that one of them matches at
    /// that instant: `* * 24-26 12 *` leaves out whole days. Five fields match every second of their minutes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exclude: Option<OneOrMany<String>>,
}

/// A solar event at a place.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SolarSpec {
    pub event: SolarEvent,
    /// Degrees, north is positive: -90 to 90.
    pub latitude: f64,
    /// Degrees, east is positive: -180 to 180.
    pub longitude: f64,
}

/// A value, or a list of values.
#[derive(Debug, Clone, PartialEq)]
pub enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

impl<T: Serialize> Serialize for OneOrMany<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::One(one) => one.serialize(serializer),
            Self::Many(many) => many.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Texts<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or a list of texts")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(serde::de::value::StrDeserializer::new(text)).map(OneOrMany::One)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(OneOrMany::Many)
            }
        }

        deserializer.deserialize_any(Texts(PhantomData))
    }
}

/// An instant, milliseconds since the Unix epoch; in JSON a text with an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub UnixMs);

impl std::str::FromStr for Time {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let at = (text.len() <= 64).then(|| text.parse::<Timestamp>().ok()).flatten();
        let at = at.and_then(|at| UnixMs::try_from(at.as_millisecond()).ok());
        at.map(Self).ok_or_else(|| {
            format!(
                "{} is no time from 1970 on with an offset: write it as 2026-12-24T18:00:00Z or …+01:00",
                shown(text)
            )
        })
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match i64::try_from(self.0).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok()) {
            Some(at) => write!(f, "{at}"),
            None => write!(f, "{} ms after 1970", self.0),
        }
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}
