//! Human units for durations (`250ms`, `30s`, `5m`, `2h`, `1d`) and sizes (`64KiB`, `16MiB`, `1GiB`).

/// Milliseconds of a text such as `30s`, `1.5h` or `250ms`.
pub fn duration_ms(text: &str) -> Result<u64, String> {
    let units = [("ms", 1.0), ("s", 1e3), ("m", 60e3), ("min", 60e3), ("h", 3_600e3), ("d", 86_400e3)];
    let hint = || format!("{text:?} is not a duration: write a number and ms, s, m, h or d, such as 30s");
    parse(text, &units).ok_or_else(hint)
}

/// Bytes of a text such as `64MiB`, `1GiB` or `512KiB` (also `64MB`: decimal).
pub fn size_bytes(text: &str) -> Result<u64, String> {
    let binary = [("", 1.0), ("B", 1.0), ("KiB", 1024.0), ("MiB", 1_048_576.0), ("GiB", 1_073_741_824.0)];
    let decimal = [("kB", 1e3), ("KB", 1e3), ("MB", 1e6), ("GB", 1e9)];
    let hint = || format!("{text:?} is not a size: write a number and B, KiB, MiB or GiB, such as 64MiB");
    parse(text, &binary).or_else(|| parse(text, &decimal)).ok_or_else(hint)
}

/// The value of a number with one of these units, rounded.
fn parse(text: &str, units: &[(&str, f64)]) -> Option<u64> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = (text[..at].parse::<f64>().ok()?, text[at..].trim());
    let factor = units.iter().find(|(known, _)| *known == unit)?.1;
    let value = (number * factor).round();
    // 2^53: beyond it a float no longer holds whole numbers.
    (value.is_finite() && (0.0..=9_007_199_254_740_992.0).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_and_sizes_read_as_people_write_them() {
        assert_eq!(duration_ms("30s"), Ok(30_000));
        assert_eq!(duration_ms("1.5h"), Ok(5_400_000));
        assert_eq!(duration_ms("250 ms"), Ok(250));
        assert_eq!(size_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(size_bytes("10"), Ok(10));
        for bad in ["", "s", "30", "-1s", "1y", "9e99s", "1..2s"] {
            assert!(duration_ms(bad).is_err(), "{bad:?}");
        }
    }
}
