//! Times and sizes as people write them.

use std::time::Duration;

/// A number of bytes, such as `64MiB`, `1.5GiB`, `500MB` or `4096`.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim() {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return Err(format!("{unit:?} is no unit; use B, kB, MB, GB, KiB, MiB or GiB")),
    };
    if let Ok(number) = number.parse::<u64>() {
        return number.checked_mul(factor).ok_or_else(|| "too large".to_owned());
    }
    let bytes = number.parse::<f64>().map_err(|_| format!("{number:?} is no number"))? * factor as f64;
    if !(0.0..1e18).contains(&bytes) {
        return Err("too large".into());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked just above")]
    Ok(bytes as u64)
}

/// A length of time, such as `500ms`, `2s`, `5min`, `1h` or `7d`; `0` needs no unit.
///
/// # Errors
/// What is wrong with the text.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let number: u64 = number.parse().map_err(|_| format!("{text:?} does not begin with a number"))?;
    let milliseconds = match unit.trim() {
        "ms" => 1,
        "s" => 1_000,
        "" if number == 0 => 1,
        "" => return Err(format!("{number} has no unit; use ms, s, min, h or d, as in {number}s")),
        "min" | "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("{unit:?} is no unit; use ms, s, min, h or d")),
    };
    number.checked_mul(milliseconds).map(Duration::from_millis).ok_or_else(|| "too long".to_owned())
}

#[cfg(test)]
mod tests {
    use super::{parse_duration, parse_size};

    #[test]
    fn times_have_units() {
        for (text, milliseconds) in
            [("500ms", 500), ("2s", 2_000), ("0", 0), ("5min", 300_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text).map(|time| time.as_millis()), Ok(milliseconds), "{text}");
        }
        for text in ["", "s", "2", "1 fortnight", "-1s", "99999999999999999d"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("4096", 4096), ("64MiB", 64 << 20), ("1.5GiB", 3 << 29), ("500MB", 500_000_000)]
        {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in ["", "MiB", "1.2.3GiB", "5 parsecs", "-1", "99999999999TiB", "1e9"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
