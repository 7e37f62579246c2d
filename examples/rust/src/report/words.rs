//! Numbers as people read them.

/// A count with its thousands apart: `26,823`.
pub(super) fn count(number: u128) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index) % 3 == 0 {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number for an axis: `0.25`, `300`, `20k`, `1.5M`.
pub(super) fn short(number: f64) -> String {
    let (value, unit) = match number.abs() {
        large if large >= 1e9 => (number / 1e9, "G"),
        large if large >= 1e6 => (number / 1e6, "M"),
        large if large >= 1e4 => (number / 1e3, "k"),
        _ => (number, ""),
    };
    let text = format!("{value:.3}");
    format!("{}{unit}", text.trim_end_matches('0').trim_end_matches('.'))
}

/// A length of time with two units at most: `350 ms`, `4.2 s`, `3 min 20 s`, `23 d 4 h`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds < 0.9995 {
        return format!("{:.0} ms", seconds * 1e3);
    }
    if seconds < 59.95 {
        return short((seconds * 10.0).round() / 10.0) + " s";
    }
    let whole = seconds.round() as u64;
    let (large, small, units) = match whole {
        0..3_600 => (whole / 60, whole % 60, ("min", "s")),
        3_600..86_400 => (whole / 3_600, whole % 3_600 / 60, ("h", "min")),
        _ => (whole / 86_400, whole % 86_400 / 3_600, ("d", "h")),
    };
    match small {
        0 => format!("{large} {}", units.0),
        _ => format!("{large} {} {small} {}", units.0, units.1),
    }
}

/// A share as `12.3 %`; of nothing it is a dash.
pub(super) fn percent(part: f64, whole: f64) -> String {
    if whole > 0.0 { format!("{:.1} %", part / whole * 100.0) } else { "–".to_owned() }
}

/// GPU time as `1,234.5 s`, or in hours where it is long.
pub(super) fn gpu_seconds(nanos: u128) -> String {
    if nanos >= 3_600_000_000_000 {
        let tenths = nanos / 360_000_000_000;
        return format!("{}.{} h", count(tenths / 10), tenths % 10);
    }
    let tenths = nanos / 100_000_000;
    format!("{}.{} s", count(tenths / 10), tenths % 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        assert_eq!([count(0), count(999), count(26_823), count(1_234_567)], ["0", "999", "26,823", "1,234,567"]);
        let shorts = [0.0, 0.25, 300.0, 9_500.0, 20_000.0, 1_500_000.0].map(short);
        assert_eq!(shorts, ["0", "0.25", "300", "9500", "20k", "1.5M"]);
        let durations = [0.0, 0.35, 0.9999, 4.21, 59.97, 200.0, 3_600.0, 7_380.0, 2_001_600.0].map(duration);
        assert_eq!(
            durations,
            ["0 ms", "350 ms", "1 s", "4.2 s", "1 min", "3 min 20 s", "1 h", "2 h 3 min", "23 d 4 h"]
        );
        assert_eq!((percent(1.0, 8.0), percent(1.0, 0.0)), ("12.5 %".to_owned(), "–".to_owned()));
        assert_eq!(
            (gpu_seconds(1_234_560_000_000), gpu_seconds(763_106_000_000_000)),
            ("1,234.5 s".into(), "211.9 h".into())
        );
    }
}
