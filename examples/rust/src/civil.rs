//! Dates as people write them, and nanoseconds since the Unix epoch.

use libgateway::Timestamp;

/// An instant from `YYYY-MM-DD HH:MM:SS`, with up to nine decimals of a second; UTC, or with an offset such as `+02:00`.
///
/// # Errors
/// What is wrong with the text, as the end of a sentence that begins with the field.
pub(crate) fn parse(text: &str) -> Result<Timestamp, &'static str> {
    let malformed = "is not a date and time such as 2024-11-15 16:57:50";
    let bytes = text.as_bytes();
    let form = b"dddd-dd-dd?dd:dd:dd";
    let fits = |(byte, form): (&u8, &u8)| match form {
        b'd' => byte.is_ascii_digit(),
        b'?' => matches!(byte, b' ' | b'T'),
        sign => byte == sign,
    };
    if bytes.len() < form.len() || !bytes.iter().zip(form).all(fits) {
        return Err(malformed);
    }
    let number =
        |from: usize, to: usize| bytes[from..to].iter().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second) = (number(11, 13), number(14, 16), number(17, 19));
    if !(1..=12).contains(&month) || !(1..=days_in(year, month)).contains(&day) {
        return Err("is a day that is in no calendar");
    }
    if hour > 23 || minute > 59 || second > 59 {
        return Err("is a time that is on no clock");
    }
    let (nanos, rest) = fraction(&bytes[form.len()..])?;
    let offset = offset(rest).ok_or(malformed)?;
    let seconds = days_from_civil(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second - offset;
    let seconds = u64::try_from(seconds).map_err(|_| "is before 1970")?;
    let whole = seconds.checked_mul(NANOS_PER_SEC).and_then(|whole| whole.checked_add(nanos));
    whole.map(Timestamp::from_nanos).ok_or("is after the year 2554")
}

/// The instant to the second, as `YYYY-MM-DD HH:MM:SS`, in UTC.
pub(crate) fn format(at: Timestamp) -> String {
    let seconds = at.as_nanos() / NANOS_PER_SEC;
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}

/// Nanoseconds of a decimal part such as `.6805900`, and what follows it.
fn fraction(bytes: &[u8]) -> Result<(u64, &[u8]), &'static str> {
    let Some(digits) = bytes.strip_prefix(b".") else { return Ok((0, bytes)) };
    let len = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    match len {
        0 => Err("has a point without decimals"),
        1..=9 => {
            let part = digits[..len].iter().chain(std::iter::repeat(&b'0')).take(9);
            Ok((part.fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0')), &digits[len..]))
        }
        _ => Err("has more than nine decimals"),
    }
}

/// Seconds by which a clock with this offset is ahead of UTC.
fn offset(bytes: &[u8]) -> Option<i64> {
    match bytes {
        [] | b"Z" => Some(0),
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let pair = |tens: &u8, ones: &u8| {
                Some(i64::from(char::from(*tens).to_digit(10)? * 10 + char::from(*ones).to_digit(10)?))
            };
            let (hours, minutes) = (pair(h1, h2)?, pair(m1, m2)?);
            let seconds = hours * 3_600 + minutes * 60;
            (hours < 24 && minutes < 60).then_some(if *sign == b'+' { seconds } else { -seconds })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    let is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    match month {
        2 => 28 + i64::from(is_leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since the epoch. The year is taken to begin in March, so that the leap day is its last.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month < 3 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let leaps = year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400);
    365 * year + leaps + day_of_year - EPOCH_FROM_MARCH_0
}

/// The inverse: the year is guessed and put right, as an instant of 64 bits is at most 584 years away.
fn civil_from_days(days: u64) -> (i64, i64, i64) {
    let days = days as i64;
    let mut year = 1970 + days / 366;
    while days_from_civil(year + 1, 1, 1) <= days {
        year += 1;
    }
    let mut month = 12;
    while days_from_civil(year, month, 1) > days {
        month -= 1;
    }
    (year, month, days - days_from_civil(year, month, 1) + 1)
}

/// Days from the first of March of the year 0 to the epoch.
const EPOCH_FROM_MARCH_0: i64 = 719_468;
const NANOS_PER_SEC: u64 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_exact_to_the_nanosecond() {
        for (text, nanos) in [
            ("1970-01-01 00:00:00", 0),
            ("2000-02-29 12:00:00", 951_825_600_000_000_000),
            ("2023-11-16 18:15:46.6805900", 1_700_158_546_680_590_000),
            ("2024-11-15 16:57:50", 1_731_689_870_000_000_000),
            ("2024-05-10T00:00:00.009930+00:00", 1_715_299_200_009_930_000),
            ("2024-05-10 02:30:00+02:30", 1_715_299_200_000_000_000),
            ("2024-05-09 22:00:00-02:00", 1_715_299_200_000_000_000),
            ("2024-05-10 00:00:00.123456789Z", 1_715_299_200_123_456_789),
            ("2554-07-21 23:34:33.709551615", u64::MAX),
        ] {
            assert_eq!(parse(text), Ok(Timestamp::from_nanos(nanos)), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_told_apart() {
        for (text, what) in [
            ("", "is not a date and time such as 2024-11-15 16:57:50"),
            ("2024-11-15", "is not a date and time such as 2024-11-15 16:57:50"),
            ("2024-11-15 16:57:5O", "is not a date and time such as 2024-11-15 16:57:50"),
            ("2024-11-15 16:57:50 ", "is not a date and time such as 2024-11-15 16:57:50"),
            ("2024-11-15 16:57:50+24:00", "is not a date and time such as 2024-11-15 16:57:50"),
            ("2023-02-29 00:00:00", "is a day that is in no calendar"),
            ("2023-00-10 00:00:00", "is a day that is in no calendar"),
            ("2023-04-31 00:00:00", "is a day that is in no calendar"),
            ("2023-04-30 24:00:00", "is a time that is on no clock"),
            ("2023-04-30 23:59:60", "is a time that is on no clock"),
            ("2023-04-30 23:59:59.", "has a point without decimals"),
            ("2023-04-30 23:59:59.1234567890", "has more than nine decimals"),
            ("1969-12-31 23:59:59", "is before 1970"),
            ("2554-07-21 23:34:33.709551616", "is after the year 2554"),
            ("9999-12-31 23:59:59", "is after the year 2554"),
        ] {
            assert_eq!(parse(text), Err(what), "{text}");
        }
    }

    #[test]
    fn every_day_comes_back_as_it_was_read() {
        for day in (0..213_503).step_by(7).chain([58, 59, 60, 10_956, 10_957, 11_016, 11_017]) {
            let at = Timestamp::from_secs(day * 86_400 + 3_661);
            assert_eq!(parse(&format(at)), Ok(at), "{}", format(at));
        }
        assert_eq!(format(Timestamp::MAX), "2554-07-21 23:34:33");
    }
}
