//! Human units in attribute values. The same spellings as the server's (`umbel-model`'s `human`), which this crate
//! must not depend on: guests are built without the host's code. A test of the SDK compares the two.

/// Milliseconds of a text such as `30s`, `1.5h` or `250ms`.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let hint = || format!("{text:?} is not a duration: write a number and ms, s, m, h or d, such as \"30s\"");
    let (number, unit) = split(text).ok_or_else(hint)?;
    let factor = match unit {
        "ms" => 1.0,
        "s" => 1e3,
        "m" | "min" => 60e3,
        "h" => 3_600e3,
        "d" => 86_400e3,
        _ => return Err(hint()),
    };
    scaled(number, factor).ok_or_else(hint)
}

/// Bytes of a text such as `64MiB`, `1GiB` or `512KiB` (also `64MB`: decimal).
pub(crate) fn size_bytes(text: &str) -> Result<u64, String> {
    let hint = || format!("{text:?} is not a size: write a number and B, KiB, MiB or GiB, such as \"64MiB\"");
    let (number, unit) = split(text).ok_or_else(hint)?;
    let factor = match unit {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1_048_576.0,
        "GiB" => 1_073_741_824.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        _ => return Err(hint()),
    };
    scaled(number, factor).ok_or_else(hint)
}

/// A plain amount of a text such as `10G` (ten thousand million), `500M` or `1T`.
pub(crate) fn amount(text: &str) -> Result<u64, String> {
    let hint = || format!("{text:?} is not an amount of fuel: write a number and K, M, G or T, such as \"10G\"");
    let (number, unit) = split(text).ok_or_else(hint)?;
    let factor = match unit {
        "" => 1.0,
        "K" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        _ => return Err(hint()),
    };
    scaled(number, factor).ok_or_else(hint)
}

/// A rate such as `100/m`, without spaces: 1 to 1000000, the server's limit.
pub(crate) fn rate(text: &str) -> Result<String, String> {
    let hint = || format!("{text:?} is not a rate: write a number and /s, /m or /h, such as \"100/m\"");
    let (number, unit) = text.split_once('/').ok_or_else(hint)?;
    let number: u32 = number.trim().parse().map_err(|_| hint())?;
    if !(1..=1_000_000).contains(&number) || !matches!(unit.trim(), "s" | "m" | "h") {
        return Err(hint());
    }
    Ok(format!("{number}/{}", unit.trim()))
}

fn split(text: &str) -> Option<(f64, &str)> {
    let text = text.trim();
    let at = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    Some((text[..at].parse().ok()?, text[at..].trim()))
}

fn scaled(number: f64, factor: f64) -> Option<u64> {
    let value = (number * factor).round();
    // 2^53: beyond it a float no longer holds whole numbers.
    (value.is_finite() && (0.0..=9_007_199_254_740_992.0).contains(&value)).then_some(value as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_as_people_write_them() {
        assert_eq!(duration_ms("1.5h"), Ok(5_400_000));
        assert_eq!(size_bytes("64MiB"), Ok(64 << 20));
        assert_eq!(amount("10G"), Ok(10_000_000_000));
        assert_eq!(rate("100 / m").as_deref(), Ok("100/m"));
    }

    #[test]
    fn a_bare_number_is_not_a_duration_or_a_size() {
        for bad in ["", "s", "30", "-1s", "1y", "9e99s", "1..2s"] {
            assert!(duration_ms(bad).is_err(), "{bad:?}");
        }
        assert!(size_bytes("10").is_err());
        assert!(rate("0/s").is_err() && rate("5").is_err() && rate("5/d").is_err());
    }
}
