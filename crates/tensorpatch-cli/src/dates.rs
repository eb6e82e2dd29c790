//! Dates and lengths of time as people read them.

use chrono::DateTime;

/// Seconds since 1970 as `2026-11-29 01:39` in UTC; a dash if no calendar goes as far.
pub(crate) fn date(seconds: u64) -> String {
    let date = i64::try_from(seconds).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    // Years of more digits are of records that somebody made up.
    date.map(|date| date.format("%Y-%m-%d %H:%M").to_string())
        .filter(|text| text.len() == 16)
        .unwrap_or_else(|| "-".into())
}

/// Seconds in the unit that suits them: `40 s`, `3 min`, `5 h`, `12 d`.
pub(crate) fn length(seconds: u64) -> String {
    const MINUTE: u64 = 60;
    const HOUR: u64 = 60 * MINUTE;
    const DAY: u64 = 24 * HOUR;
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7_200 => format!("{} min", seconds / MINUTE),
        7_200..172_800 => format!("{} h", seconds / HOUR),
        _ => format!("{} d", seconds / DAY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_in_utc_and_lengths_in_the_unit_that_suits_them() {
        assert_eq!(date(0), "1970-01-01 00:00");
        assert_eq!(date(1_795_916_340), "2026-11-29 01:39");
        assert_eq!(date(u64::MAX), "-");
        assert_eq!(date(1 << 50), "-");
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (172_800, "2 d")]
        {
            assert_eq!(length(seconds), text);
        }
    }
}
