//! Exact decimals: seconds as they stand in a file, and sums of nanoseconds as they are told. No float comes near them.

/// Nanoseconds from a decimal of seconds such as `32.5`.
///
/// # Errors
/// What is wrong with the text, as the end of a sentence that begins with the field.
pub(crate) fn nanos_of_seconds(text: &str) -> Result<u64, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.starts_with('-') {
        return Err("is negative");
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let is_digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    if !is_digits(whole) || !is_digits(fraction) {
        return Err("is not a decimal number such as 32.5");
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > DECIMALS {
        return Err("has more than nine decimals");
    }
    let too_large = "is too large";
    let seconds: u64 = whole.parse().map_err(|_| too_large)?;
    let part = fraction.bytes().chain(std::iter::repeat(b'0')).take(DECIMALS);
    let nanos = part.fold(0_u64, |sum, digit| sum * 10 + u64::from(digit - b'0'));
    seconds.checked_mul(NANOS_PER_SEC).and_then(|whole| whole.checked_add(nanos)).ok_or(too_large)
}

/// A whole number such as `374`.
///
/// # Errors
/// As [`nanos_of_seconds`].
pub(crate) fn whole(text: &str) -> Result<u64, &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.starts_with('-') {
        return Err("is negative");
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is not a whole number");
    }
    text.parse().map_err(|_| "is too large")
}

/// Seconds as a canonical decimal: no exponent, no trailing zeros. The same form as that of `GpuNanos`, for sums beyond
/// 64 bits.
pub(crate) fn seconds_of_nanos(nanos: u128) -> String {
    fixed(nanos, DECIMALS)
}

/// An amount of money in units, from micro-units.
pub(crate) fn units_of_micros(micros: u128) -> String {
    fixed(micros, 6)
}

fn fixed(value: u128, decimals: usize) -> String {
    let digits = format!("{value:0width$}", width = decimals + 1);
    let (whole, fraction) = digits.split_at(digits.len() - decimals);
    match fraction.trim_end_matches('0') {
        "" => whole.to_owned(),
        fraction => format!("{whole}.{fraction}"),
    }
}

const DECIMALS: usize = 9;
const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_are_read_and_told_to_the_last_digit() {
        for (text, nanos) in [
            ("0.0", 0),
            ("0", 0),
            ("32.0", 32_000_000_000),
            ("0.000000001", 1),
            ("1.5000000000000", 1_500_000_000),
            ("18446744073.709551615", u64::MAX),
        ] {
            assert_eq!(nanos_of_seconds(text), Ok(nanos), "{text}");
        }
        for (nanos, text) in [(0, "0"), (1, "0.000000001"), (32_000_000_000, "32"), (1_500_000_000, "1.5")] {
            assert_eq!(seconds_of_nanos(nanos), text);
        }
        assert_eq!(seconds_of_nanos(u128::MAX), "340282366920938463463374607431.768211455");
        assert_eq!(units_of_micros(2_040), "0.00204");
    }

    #[test]
    fn what_is_no_decimal_is_told_apart() {
        for (text, what) in [
            ("", "is empty"),
            ("-1", "is negative"),
            ("1e3", "is not a decimal number such as 32.5"),
            ("+1", "is not a decimal number such as 32.5"),
            ("1.", "is not a decimal number such as 32.5"),
            (".5", "is not a decimal number such as 32.5"),
            ("NaN", "is not a decimal number such as 32.5"),
            ("1.2.3", "is not a decimal number such as 32.5"),
            ("٣", "is not a decimal number such as 32.5"),
            ("0.0000000001", "has more than nine decimals"),
            ("18446744073.709551616", "is too large"),
            ("99999999999999999999", "is too large"),
        ] {
            assert_eq!(nanos_of_seconds(text), Err(what), "{text}");
        }
        assert_eq!(
            (whole("374"), whole("374.0"), whole("-3")),
            (Ok(374), Err("is not a whole number"), Err("is negative"))
        );
        assert_eq!(whole("18446744073709551616"), Err("is too large"));
    }
}
