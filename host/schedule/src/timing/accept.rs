//! From the written form to a timing that was checked.

use umbel_model::{JsonError, UnixMs, nearest};

use crate::{
    cron::{Cron, CronSet, DayRule, HORIZON_YEARS},
    error::TimingError,
    every::{Every, Length},
    solar::{HORIZON_DAYS, Solar, SolarEvent},
    spec::{OneOrMany, SolarSpec, Time, TimingSpec, When},
    timing::{Checked, Next, exclusions::Exclusions, source::Source},
    walk,
    zone::Zone,
};

const MAX_EXPRESSIONS: usize = 32;
const MAX_TIMES: usize = 100;
/// Searches for any time at all that go on where the one before gave up.
const MAX_SEARCHES: usize = 32;
/// 2000-01-01, from where a timing without a start is searched for any time at all.
const SEARCH_FROM: UnixMs = 946_684_800_000;

/// Checks everything.
pub(super) fn check(mut spec: TimingSpec) -> Result<Checked, TimingError> {
    let zone = match &spec.zone {
        Some(name) => Zone::named(name).map_err(|detail| TimingError::new("/zone", detail))?,
        None => Zone::utc(),
    };
    spec.zone = spec.zone.map(|_| zone.name().to_owned());
    let starts_at = spec.starts_at.map_or(0, |Time(at)| at);
    let ends_at = spec.ends_at.map_or(UnixMs::MAX, |Time(at)| at);
    if ends_at <= starts_at {
        return Err(TimingError::new("/ends_at", "it is not after \"starts_at\": nothing would fire"));
    }
    let source = source(&spec.when, &zone)?;
    let exclusions = exclusions(&spec.when)?;
    let checked = Checked { spec, zone, source, exclusions, starts_at, ends_at };
    fires_at_all(&checked)?;
    Ok(checked)
}

fn source(when: &When, zone: &Zone) -> Result<Source, TimingError> {
    let given = [
        ("cron", when.cron.is_some()),
        ("every", when.every.is_some()),
        ("solar", when.solar.is_some()),
        ("at", when.at.is_some()),
    ];
    let given: Vec<&str> = given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect();
    if given.len() != 1 {
        let have =
            if given.is_empty() { "it has none of them".to_owned() } else { format!("it has {}", given.join(", ")) };
        return Err(TimingError::new("/when", format!("write exactly one of cron, every, solar and at: {have}")));
    }
    if when.days.is_some() && when.cron.is_none() && when.exclude.is_none() {
        return Err(TimingError::new("/when/days", "it belongs to cron expressions, and there are none: take it out"));
    }
    if when.anchor.is_some() && when.every.is_none() {
        return Err(TimingError::new("/when/anchor", "it belongs to \"every\": take it out, or see \"starts_at\""));
    }
    if let Some(texts) = &when.cron {
        return crons(texts, "cron", when.days, Some(zone)).map(Source::Cron);
    }
    if let Some(text) = &when.every {
        let length = Length::parse(text).map_err(|detail| TimingError::new("/when/every", detail))?;
        return Ok(Source::Every(Every::new(length, when.anchor.map(|Time(at)| at), zone)));
    }
    match (&when.solar, &when.at) {
        (Some(spec), _) => solar(spec).map(Source::Solar),
        (None, times) => times.as_ref().map_or(Ok(Vec::new()), one_off).map(Source::At),
    }
}

/// Expressions of a field. `zone` is given for those that fire: each of them must do so.
fn crons(
    texts: &OneOrMany<String>,
    field: &str,
    days: Option<DayRule>,
    zone: Option<&Zone>,
) -> Result<Vec<Cron>, TimingError> {
    let list = texts.as_slice();
    if list.is_empty() || list.len() > MAX_EXPRESSIONS {
        let detail = format!("there are {} expressions: write 1 to {MAX_EXPRESSIONS}", list.len());
        return Err(TimingError::new(format_args!("/when/{field}"), detail));
    }
    let read = |(index, text): (usize, &String)| {
        let pointer = match texts {
            OneOrMany::One(_) => format!("/when/{field}"),
            OneOrMany::Many(_) => format!("/when/{field}/{index}"),
        };
        let parse = if zone.is_some() { Cron::parse } else { Cron::parse_exclusion };
        let cron = parse(text, days.unwrap_or_default()).map_err(|detail| TimingError::new(&pointer, detail))?;
        if let Some(zone) = zone.filter(|zone| never_fires(&cron.set, zone)) {
            let detail = format!(
                "it never fires in {}: each of its times is in a gap of the clock. Write the minute and the hour \
                 as plain numbers, and it fires after the gap",
                zone.name()
            );
            return Err(TimingError::new(pointer, detail));
        }
        Ok(cron)
    };
    list.iter().enumerate().map(read).collect()
}

/// Whether no local time of an expression that follows elapsed time exists in the zone.
fn never_fires(set: &CronSet, zone: &Zone) -> bool {
    let fires_from = |from: UnixMs| walk::at_or_after(set, zone, (from / 1_000) as i64).is_some();
    !(fires_from(SEARCH_FROM) || set.has_last_year() && fires_from(0))
}

fn solar(spec: &SolarSpec) -> Result<Solar, TimingError> {
    for (name, degrees, most) in [("latitude", spec.latitude, 90.0), ("longitude", spec.longitude, 180.0)] {
        if !(-most..=most).contains(&degrees) {
            let detail = format!("write degrees from -{most} to {most}; this is {degrees}");
            return Err(TimingError::new(format_args!("/when/solar/{name}"), detail));
        }
    }
    let solar = Solar { event: spec.event, latitude: spec.latitude, longitude: spec.longitude };
    match solar.at_or_after((SEARCH_FROM / 1_000) as i64) {
        Some(_) => Ok(solar),
        None => Err(TimingError::new(
            "/when/solar",
            format!(
                "there is no {} at latitude {} within {HORIZON_DAYS} days: take a place that is not at a pole",
                spec.event.as_str(),
                spec.latitude
            ),
        )),
    }
}

fn one_off(times: &OneOrMany<Time>) -> Result<Vec<UnixMs>, TimingError> {
    let given = times.as_slice();
    if given.is_empty() || given.len() > MAX_TIMES {
        return Err(TimingError::new("/when/at", format!("there are {} times: write 1 to {MAX_TIMES}", given.len())));
    }
    let mut times: Vec<UnixMs> = given.iter().map(|Time(at)| *at).collect();
    times.sort_unstable();
    times.dedup();
    match times.windows(2).find(|pair| pair[1] - pair[0] < 1_000) {
        Some(pair) => {
            let detail = format!("{} and {} are less than a second apart", Time(pair[0]), Time(pair[1]));
            Err(TimingError::new("/when/at", detail))
        }
        None => Ok(times),
    }
}

fn exclusions(when: &When) -> Result<Exclusions, TimingError> {
    let crons = when.exclude.as_ref().map(|texts| crons(texts, "exclude", when.days, None)).transpose()?;
    Ok(Exclusions::new(crons.into_iter().flatten().map(|cron| cron.set).collect()))
}

/// Refuses a timing that fires never between its start and its end.
fn fires_at_all(checked: &Checked) -> Result<(), TimingError> {
    let from = if checked.starts_at > 0 { checked.starts_at } else { SEARCH_FROM };
    let mut found = match checked.at_or_after(from) {
        Next::Never if from == SEARCH_FROM => checked.at_or_after(0),
        found => found,
    };
    for _ in 0..MAX_SEARCHES {
        let Next::NoneUntil(until) = found else { break };
        found = checked.at_or_after(until + 1);
    }
    let bounded = checked.starts_at > 0 || checked.ends_at < UnixMs::MAX;
    match found {
        Next::At(_) => Ok(()),
        Next::Never if bounded => Err(TimingError::new(
            "",
            "nothing fires between \"starts_at\" and \"ends_at\": move them, or take them out",
        )),
        Next::NoneUntil(_) if checked.exclusions.is_empty() => {
            Err(TimingError::new("/when", format!("no time was found within {HORIZON_YEARS} years")))
        }
        Next::Never => Err(TimingError::new("/when/exclude", "every time is excluded: take an expression out")),
        Next::NoneUntil(until) => {
            let days = (until - from) / 86_400_000;
            let detail = format!(
                "every time that was looked at is excluded ({days} days from {}): take an expression out",
                Time(from)
            );
            Err(TimingError::new("/when/exclude", detail))
        }
    }
}

/// Why a timing does not fire after `now`.
pub(super) fn over(checked: &Checked, now: UnixMs) -> TimingError {
    let (pointer, what) = match &checked.source {
        _ if checked.ends_at <= now => ("/ends_at", "it is over"),
        Source::At(_) => ("/when/at", "all of these times are over"),
        Source::Cron(_) if checked.ends_at == UnixMs::MAX => ("/when/cron", "its years are over"),
        _ => ("/ends_at", "nothing fires before it"),
    };
    TimingError::new(pointer, format!("{what}: now is {}. Write a later time", Time(now)))
}

/// An error in JSON of a wrong shape.
pub(super) fn wrong_shape(text: &str, error: &serde_json::Error) -> TimingError {
    match JsonError::of_text::<TimingSpec>(text) {
        Some(JsonError { pointer, detail }) => {
            let detail = if pointer == "/when/solar/event" { with_events(detail, text) } else { detail };
            TimingError::new(pointer, detail)
        }
        None => TimingError::new("", umbel_model::plain(&error.to_string())),
    }
}

/// The nearest name of an event.
fn with_events(detail: String, text: &str) -> String {
    let given = serde_json::from_str::<serde_json::Value>(text).ok();
    let given = given.as_ref().and_then(|value| value.pointer("/when/solar/event")?.as_str());
    let meant = given.and_then(|given| nearest(given, SolarEvent::ALL.map(SolarEvent::as_str)));
    meant.map_or_else(|| detail.clone(), |meant| format!("{detail}. Did you mean `{meant}`?"))
}
