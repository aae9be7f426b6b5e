//! The calendar in whole numbers: days since 1970-01-01, and seconds of the local clock since 1970-01-01T00:00.
//!
//! Local seconds know no zone. `zone.rs` turns them into instants.

use jiff::civil::DateTime;

pub(crate) const DAY: i64 = 86_400;

/// Seconds of a local clock since 1970-01-01T00:00 on it.
pub(crate) type LocalSeconds = i64;

/// Days since 1970-01-01 of a date of the Gregorian calendar.
///
/// Years are counted from March, so that the leap day is the last one of a year, in eras of 400 years.
pub(crate) fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

/// Year, month and day of a day number.
pub(crate) fn date_of(day_number: i64) -> (i64, i64, i64) {
    let days = day_number + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// 0 for Sunday to 6 for Saturday.
pub(crate) fn weekday(day_number: i64) -> u32 {
    (day_number + 4).rem_euclid(7) as u32
}

pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// The local clock as jiff has it. None beyond the year 9999.
pub(crate) fn to_civil(local: LocalSeconds) -> Option<DateTime> {
    let (year, month, day) = date_of(local.div_euclid(DAY));
    let second = local.rem_euclid(DAY);
    let (year, month, day) = (i16::try_from(year).ok()?, month as i8, day as i8);
    DateTime::new(year, month, day, (second / 3_600) as i8, (second / 60 % 60) as i8, (second % 60) as i8, 0).ok()
}

#[cfg(test)]
pub(crate) fn of_civil(civil: DateTime) -> LocalSeconds {
    of_date(civil.date()) * DAY
        + i64::from(civil.hour()) * 3_600
        + i64::from(civil.minute()) * 60
        + i64::from(civil.second())
}

#[cfg(test)]
fn of_date(date: jiff::civil::Date) -> i64 {
    day_number(date.year().into(), date.month().into(), date.day().into())
}

#[cfg(test)]
mod tests {
    use jiff::civil::Date;

    use super::*;

    #[test]
    fn days_are_numbered_as_jiff_numbers_them() {
        let first = Date::new(1600, 1, 1).unwrap();
        let mut date = first;
        let mut number = of_date(first);
        while date.year() < 2410 {
            let (year, month, day) = date_of(number);
            assert_eq!((year as i16, month as i8, day as i8), (date.year(), date.month(), date.day()));
            assert_eq!(of_date(date), number);
            assert_eq!(weekday(number), date.weekday().to_sunday_zero_offset() as u32);
            assert_eq!(days_in_month(year, month) as i8, date.days_in_month());
            (date, number) = (date.tomorrow().unwrap(), number + 1);
        }
    }

    #[test]
    fn the_local_clock_goes_there_and_back() {
        for local in [-1, 0, 1, 86_399, 951_782_400, 4_102_444_799] {
            assert_eq!(of_civil(to_civil(local).unwrap()), local);
        }
        assert_eq!(to_civil(i64::MAX / 2), None);
    }
}
