//! Solar events at a place: sunrise, sunset, noon and the three kinds of dawn and dusk.
//!
//! By the low-precision position of the sun (Meeus, Astronomical Algorithms, chapter 25): within some 20 s of an
//! ephemeris between the polar circles, from 1970 to 2200. The horizon is level and the air is standard.

use crate::{calendar::DAY, zone::UnixSeconds};

/// How far a search looks, days: more than a year, so that an event that is not found is not a matter of the season.
pub(crate) const HORIZON_DAYS: i64 = 400;

umbel_model::named_enum! {
    /// What the sun does, under Celery's names.
    pub enum SolarEvent {
        /// 18 degrees below the horizon, in the morning.
        DawnAstronomical = "dawn_astronomical",
        /// 12 degrees below the horizon, in the morning.
        DawnNautical = "dawn_nautical",
        /// 6 degrees below the horizon, in the morning.
        DawnCivil = "dawn_civil",
        /// The upper rim is on the horizon, in the morning.
        Sunrise = "sunrise",
        /// Highest, on the meridian.
        SolarNoon = "solar_noon",
        Sunset = "sunset",
        DuskCivil = "dusk_civil",
        DuskNautical = "dusk_nautical",
        DuskAstronomical = "dusk_astronomical",
    }
}

/// An event at a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Solar {
    pub event: SolarEvent,
    pub latitude: f64,
    pub longitude: f64,
}

impl Solar {
    /// The first event at or after an instant. None if there is none within `HORIZON_DAYS`: a polar day or night has
    /// no such event, and is passed over.
    pub(crate) fn at_or_after(&self, from: UnixSeconds) -> Option<UnixSeconds> {
        let today = from.div_euclid(DAY);
        // An event of a day may be on the UTC day before it or after it.
        (today - 1..=today + HORIZON_DAYS).find_map(|day| self.of_day(day).filter(|at| *at >= from))
    }

    /// The event that is next to the noon of a day: of the noon at longitude 0 that is on this day of UTC, or as many
    /// hours before or after it as the longitude says.
    fn of_day(&self, day_number: i64) -> Option<UnixSeconds> {
        let mean_noon = day_number as f64 * 86_400.0 + 43_200.0 - self.longitude * DEGREE_SECONDS;
        let noon = |sun: Sun| mean_noon - sun.equation_degrees * DEGREE_SECONDS;
        let mut at = noon(Sun::at(mean_noon));
        let Some((altitude, sign)) = self.event.altitude() else { return Some(at.round() as UnixSeconds) };
        let mut cosine = self.hour_angle_cosine(altitude, Sun::at(at));
        // In a day the sun's declination changes by 0.4 degrees: far from the horizon it stays there.
        if cosine.abs() > 1.0 && (self.latitude.abs() > 89.9 || self.misses(altitude, Sun::at(at))) {
            return None;
        }
        for _ in 0..ITERATIONS {
            let sun = Sun::at(at);
            cosine = self.hour_angle_cosine(altitude, sun);
            at = noon(sun) + sign * cosine.clamp(-1.0, 1.0).acos().to_degrees() * DEGREE_SECONDS;
        }
        (cosine.abs() <= 1.0).then(|| at.round() as UnixSeconds)
    }

    /// The cosine of the angle from noon at which the sun has an altitude; beyond 1 it never has.
    fn hour_angle_cosine(&self, altitude_degrees: f64, sun: Sun) -> f64 {
        let latitude = self.latitude.to_radians();
        let (sine, cosine) = sun.declination.sin_cos();
        (altitude_degrees.to_radians().sin() - latitude.sin() * sine) / (latitude.cos() * cosine)
    }

    /// Whether the sun stays a degree above or below an altitude all day.
    fn misses(&self, altitude_degrees: f64, sun: Sun) -> bool {
        let declination = sun.declination.to_degrees();
        let highest = 90.0 - (self.latitude - declination).abs();
        let lowest = (self.latitude + declination).abs() - 90.0;
        highest < altitude_degrees - 1.0 || lowest > altitude_degrees + 1.0
    }
}

/// Seconds in which the Earth turns by a degree to the sun.
const DEGREE_SECONDS: f64 = 240.0;
/// Each brings the event some hundred times nearer.
const ITERATIONS: usize = 5;

impl SolarEvent {
    /// Degrees of the sun above the horizon, and whether before noon (-1) or after it. None for noon.
    ///
    /// At sunrise and sunset half of the disk (16') and refraction (34') are added.
    fn altitude(self) -> Option<(f64, f64)> {
        Some(match self {
            Self::SolarNoon => return None,
            Self::DawnAstronomical => (-18.0, -1.0),
            Self::DawnNautical => (-12.0, -1.0),
            Self::DawnCivil => (-6.0, -1.0),
            Self::Sunrise => (-50.0 / 60.0, -1.0),
            Self::Sunset => (-50.0 / 60.0, 1.0),
            Self::DuskCivil => (-6.0, 1.0),
            Self::DuskNautical => (-12.0, 1.0),
            Self::DuskAstronomical => (-18.0, 1.0),
        })
    }
}

/// Where the sun is.
#[derive(Clone, Copy)]
struct Sun {
    /// Radians north of the equator.
    declination: f64,
    /// How far a sundial is before a clock.
    equation_degrees: f64,
}

impl Sun {
    /// At an instant, seconds since the Unix epoch.
    fn at(second: f64) -> Self {
        // Days and centuries since 2000-01-01T12:00.
        let days = (second - 946_728_000.0) / 86_400.0;
        let centuries = days / 36_525.0;
        let mean_longitude = 280.466_46 + 0.985_647_36 * days;
        let anomaly = (357.529_11 + 0.985_600_28 * days).to_radians();
        let centre = (1.914_602 - 0.004_817 * centuries) * anomaly.sin()
            + 0.019_993 * (2.0 * anomaly).sin()
            + 0.000_289 * (3.0 * anomaly).sin();
        let node = (125.04 - 1_934.136 * centuries).to_radians();
        let longitude = (mean_longitude + centre - 0.005_69 - 0.004_78 * node.sin()).to_radians();
        let obliquity = (23.439_291 - 0.013_004 * centuries + 0.002_56 * node.cos()).to_radians();
        let (sine, cosine) = longitude.sin_cos();
        let right_ascension = (obliquity.cos() * sine).atan2(cosine).to_degrees();
        let equation = mean_longitude - 0.005_718 - right_ascension;
        Self {
            declination: (obliquity.sin() * sine).asin(),
            equation_degrees: (equation + 180.0).rem_euclid(360.0) - 180.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> UnixSeconds {
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    }

    fn close(event: SolarEvent, (latitude, longitude): (f64, f64), from: &str, expected: &str, within: i64) {
        let found = Solar { event, latitude, longitude }.at_or_after(at(from)).unwrap();
        let late = found - at(expected);
        assert!(late.abs() <= within, "{} from {from} is {late} s late", event.as_str());
    }

    #[test]
    fn events_are_those_of_the_almanac() {
        let greenwich = (51.4779, 0.0);
        // The equation of time is largest in early November (+16 min 27 s) and mid February (-14 min 14 s).
        close(SolarEvent::SolarNoon, greenwich, "2026-11-03T00:00:00Z", "2026-11-03T11:43:33Z", 15);
        close(SolarEvent::SolarNoon, greenwich, "2026-02-11T00:00:00Z", "2026-02-11T12:14:14Z", 15);
        let berlin = (52.52, 13.405);
        for (event, expected) in [
            (SolarEvent::DawnAstronomical, "2026-03-20T03:13:00Z"),
            (SolarEvent::DawnNautical, "2026-03-20T03:55:00Z"),
            (SolarEvent::DawnCivil, "2026-03-20T04:35:15Z"),
            (SolarEvent::Sunrise, "2026-03-20T05:09:15Z"),
            (SolarEvent::SolarNoon, "2026-03-20T11:13:50Z"),
            (SolarEvent::Sunset, "2026-03-20T17:19:26Z"),
            (SolarEvent::DuskCivil, "2026-03-20T17:53:34Z"),
            (SolarEvent::DuskNautical, "2026-03-20T18:33:59Z"),
            (SolarEvent::DuskAstronomical, "2026-03-20T19:16:15Z"),
        ] {
            close(event, berlin, "2026-03-20T00:00:00Z", expected, 20);
        }
        close(SolarEvent::Sunset, (-37.817_53, 144.967_15), "2026-12-21T00:00:00Z", "2026-12-21T09:41:43Z", 20);
        close(SolarEvent::Sunrise, (-17.713_4, 178.065), "2026-09-22T00:00:00Z", "2026-09-22T17:57:01Z", 20);
    }

    #[test]
    fn each_event_comes_once_a_day_in_the_order_of_the_sun() {
        for longitude in [-179.9, -75.0, 0.0, 100.0, 179.9] {
            let mut from = at("2026-03-20T00:00:00Z");
            from = Solar { event: SolarEvent::DawnAstronomical, latitude: 40.0, longitude }.at_or_after(from).unwrap();
            let first = from;
            for event in SolarEvent::ALL {
                let next = Solar { event, latitude: 40.0, longitude }.at_or_after(from).unwrap();
                assert!(next - from < 8 * 3_600 && (next > from || event == SolarEvent::DawnAstronomical));
                from = next;
            }
            assert!(from - first < DAY);
            let solar = Solar { event: SolarEvent::Sunset, latitude: 40.0, longitude };
            for _ in 0..1_000 {
                let next = solar.at_or_after(from + 1).unwrap();
                assert!(next > from && next - from < DAY + 600, "{longitude}");
                from = next;
            }
        }
    }

    #[test]
    fn a_polar_night_is_passed_over() {
        let tromso = Solar { event: SolarEvent::Sunrise, latitude: 69.649_2, longitude: 18.955_3 };
        close(tromso.event, (tromso.latitude, tromso.longitude), "2026-12-15T00:00:00Z", "2027-01-15T10:34:32Z", 120);
    }

    #[test]
    fn there_is_no_sunset_at_a_pole_that_can_be_named() {
        for latitude in [-90.0, 90.0] {
            let pole = Solar { event: SolarEvent::Sunset, latitude, longitude: 0.0 };
            assert_eq!(pole.at_or_after(at("2026-01-01T00:00:00Z")), None);
        }
    }
}
