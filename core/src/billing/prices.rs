//! Money, and what GPU time costs.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use alloc::borrow::{Cow, ToOwned};
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU64;
use core::str::FromStr;

use serde::de::{self, Deserializer};
use serde::{Deserialize, Serialize, Serializer};

use crate::error::{BillingError, InputError};
use crate::id::{NAME_LEN_MAX, check_name};
use crate::time::{GpuNanos, Span, write_decimal};

/// An amount of money in micro-units of a currency: never negative, never a float.
///
/// ```
/// use libgateway::Money;
/// assert_eq!(Money::from_micros(2_040).to_string(), "0.00204");
/// assert_eq!(Money::from_micros(3_000_000).to_string(), "3");
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Money(u64);

/// A currency by its three upper-case letters.
///
/// ```
/// use libgateway::Currency;
/// assert_eq!("EUR".parse::<Currency>()?.as_str(), "EUR");
/// assert!("eur".parse::<Currency>().is_err());
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

/// What GPU time costs, exactly as it was written: so many micro-units for each so many nanoseconds.
///
/// It is a ratio of two integers and never a quotient: 0.0084 an hour stays 8 400 micro-units for 3 600 s, where a price
/// kept per second would have become 2 micro-units, or 0.0072 an hour. A price with more than six decimals is kept for a
/// time as many times longer: `0.0000015/s` is 15 micro-units for 10 s.
///
/// As text, and so in JSON: a decimal, `/`, and a time: `s`, `min`, `h`, `d`, or one of them or `ns` with an integer
/// before it. A price that is not known is `None`, never zero; zero is a price, too.
///
/// ```
/// use libgateway::{GpuNanos, Money, Price};
/// let price: Price = "0.0084/h".parse()?;
/// assert_eq!(price, Price::per_hour(8_400));
/// assert_eq!(price.charge(GpuNanos::from_secs(3_600)), Ok(Money::from_micros(8_400)));
/// assert_eq!(price.charge(GpuNanos::from_secs(900)), Ok(Money::from_micros(2_100)));
/// assert_eq!("0.0000015/s".parse::<Price>()?.to_string(), "0.000015/10s");
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Price {
    micros: u64,
    /// Nanoseconds.
    per: NonZeroU64,
}

/// What a GPU-second costs, by model and tier, in one version of one currency.
///
/// A model or tier may be `*`, any. The most telling entry wins: (model, tier), then (model, `*`), then (`*`, tier),
/// then (`*`, `*`), then none: a forgotten price must be seen, so it is never taken for zero. A book never changes once
/// it is in use; a new one has a higher version.
///
/// ```
/// use libgateway::{Price, PriceBook};
/// let book = PriceBook::new(7, "USD")?.price("flux/dev", "*", 1_200)?.price_at("*", "batch", "2.88/h".parse()?)?;
/// assert_eq!(book.resolve("flux/dev", "batch"), Some(Price::per_second(1_200)));
/// assert_eq!(book.resolve("wan/default", "batch"), Some(Price::per_hour(2_880_000)));
/// assert_eq!(book.resolve("wan/default", "live"), None);
/// # Ok::<(), libgateway::error::InputError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "PriceBookForm")]
pub struct PriceBook {
    version: u32,
    currency: Currency,
    /// Ascending by (model, tier), each pair once.
    prices: Vec<Entry>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    model: Box<str>,
    tier: Box<str>,
    price: Price,
}

/// A book as it is read, in any order and not yet checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PriceBookForm {
    version: u32,
    currency: Currency,
    prices: Vec<Entry>,
}

impl Money {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The most that can be told.
    pub const MAX: Self = Self(u64::MAX);

    /// Money from micro-units.
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros)
    }

    /// The amount in micro-units.
    pub const fn as_micros(self) -> u64 {
        self.0
    }

    /// The sum, or `None` on overflow.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(micros) => Some(Self(micros)),
            None => None,
        }
    }
}

impl fmt::Display for Money {
    /// Units as a canonical decimal: no exponent, no trailing zeros, at most six decimals.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, u128::from(self.0), 6)
    }
}

impl Currency {
    /// The three letters.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl FromStr for Currency {
    type Err = InputError;

    /// # Errors
    /// [`InputError::Malformed`] unless the text is three letters from `A` to `Z`.
    fn from_str(text: &str) -> Result<Self, InputError> {
        match <[u8; 3]>::try_from(text.as_bytes()) {
            Ok(letters) if letters.iter().all(u8::is_ascii_uppercase) => Ok(Self(letters)),
            _ => Err(InputError::Malformed { field: "currency", expected: "three upper-case letters" }),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Currency {
    type Error = InputError;

    fn try_from(text: String) -> Result<Self, InputError> {
        text.parse()
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl Price {
    /// So many micro-units for a GPU-second.
    pub const fn per_second(micros: u64) -> Self {
        Self { micros, per: SECOND }
    }

    /// So many micro-units for a GPU-minute.
    pub const fn per_minute(micros: u64) -> Self {
        Self { micros, per: MINUTE }
    }

    /// So many micro-units for a GPU-hour.
    pub const fn per_hour(micros: u64) -> Self {
        Self { micros, per: HOUR }
    }

    /// So many micro-units for each `per` of GPU time.
    ///
    /// # Errors
    /// [`InputError::OutOfRange`] for no time.
    pub fn new(micros: u64, per: Span) -> Result<Self, InputError> {
        match NonZeroU64::new(per.as_nanos()) {
            Some(per) => Ok(Self { micros, per }),
            None => Err(InputError::OutOfRange { field: "per", value: 0, min: 1, max: u64::MAX }),
        }
    }

    /// The micro-units.
    pub const fn micros(self) -> u64 {
        self.micros
    }

    /// The GPU time they are for.
    pub const fn per(self) -> Span {
        Span::from_nanos(self.per.get())
    }

    /// What `usage` costs at this price.
    ///
    /// Rounded once, to the nearest micro-unit, a tie to the even one. So one settlement is off by at most half a
    /// micro-unit, and a sum of very many small ones leans to neither side: rounding up would charge a customer with a
    /// million 1 ms calls up to a whole unit too much, and ties rounded up would still lean by half of their share.
    ///
    /// # Errors
    /// [`BillingError::ChargeOverflow`] beyond 64 bits of micro-units.
    ///
    /// ```
    /// use libgateway::{GpuNanos, Money, Price};
    /// let price = Price::per_second(1_000);
    /// // 2.5 micro-units and 3.5 micro-units.
    /// assert_eq!(price.charge(GpuNanos::from_nanos(2_500_000)), Ok(Money::from_micros(2)));
    /// assert_eq!(price.charge(GpuNanos::from_nanos(3_500_000)), Ok(Money::from_micros(4)));
    /// ```
    pub fn charge(self, usage: GpuNanos) -> Result<Money, BillingError> {
        let product = u128::from(usage.as_nanos()) * u128::from(self.micros);
        let per = u128::from(self.per.get());
        let (whole, rest) = (product / per, product % per);
        let up = rest > per - rest || (rest == per - rest && whole % 2 == 1);
        match u64::try_from(whole + u128::from(up)) {
            Ok(micros) => Ok(Money(micros)),
            Err(_) => Err(BillingError::ChargeOverflow),
        }
    }

    /// The same, at most [`Money::MAX`], and whether that was less than the charge.
    pub(crate) fn charge_capped(self, usage: GpuNanos) -> (Money, bool) {
        self.charge(usage).map_or((Money::MAX, true), |charge| (charge, false))
    }
}

impl FromStr for Price {
    type Err = InputError;

    /// # Errors
    /// [`InputError::Malformed`] unless the text is a decimal, `/` and a time; [`InputError::Overflow`] where micro-units or
    /// nanoseconds do not fit into 64 bits; [`InputError::OutOfRange`] for no time.
    fn from_str(text: &str) -> Result<Self, InputError> {
        let malformed =
            InputError::Malformed { field: "price", expected: "a decimal, a slash and a time, as 0.0084/h" };
        let overflow = InputError::Overflow { field: "price" };
        let (amount, time) = text.split_once('/').ok_or_else(|| malformed.clone())?;
        let (whole, fraction) = amount.split_once('.').unwrap_or((amount, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(fraction) || amount.ends_with('.') {
            return Err(malformed);
        }
        let fraction = fraction.trim_end_matches('0');
        let mut micros = 0_u64;
        for digit in whole.bytes().chain(fraction.bytes()) {
            let next = micros.checked_mul(10).and_then(|micros| micros.checked_add(u64::from(digit - b'0')));
            micros = next.ok_or_else(|| overflow.clone())?;
        }
        let per = parse_time(time).ok_or(malformed)?.ok_or_else(|| overflow.clone())?;
        let power = |exponent: usize| u32::try_from(exponent).ok().and_then(|exponent| 10_u64.checked_pow(exponent));
        let scaled = match fraction.len().checked_sub(6) {
            None | Some(0) => power(6 - fraction.len()).and_then(|by| Some((micros.checked_mul(by)?, per))),
            Some(beyond) => power(beyond).and_then(|by| Some((micros, per.checked_mul(by)?))),
        };
        let (micros, per) = scaled.ok_or(overflow)?;
        Self::new(micros, Span::from_nanos(per))
    }
}

impl fmt::Display for Price {
    /// The form that is read back as the same price.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_decimal(f, u128::from(self.micros), 6)?;
        f.write_str("/")?;
        match self.per {
            HOUR => f.write_str("h"),
            MINUTE => f.write_str("min"),
            SECOND => f.write_str("s"),
            per if per.get() % SECOND.get() == 0 => write!(f, "{}s", per.get() / SECOND.get()),
            per => write!(f, "{per}ns"),
        }
    }
}

impl Serialize for Price {
    /// A text for people, two integers for machines.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.collect_str(self)
        } else {
            (self.micros, self.per).serialize(serializer)
        }
    }
}

impl<'de> Deserialize<'de> for Price {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            let text = Cow::<'de, str>::deserialize(deserializer)?;
            return text.parse().map_err(de::Error::custom);
        }
        let (micros, per) = Deserialize::deserialize(deserializer)?;
        Ok(Self { micros, per })
    }
}

/// The nanoseconds of a time as prices are written for: `None` where it is none, `Some(None)` beyond 64 bits.
fn parse_time(text: &str) -> Option<Option<u64>> {
    let unit = text.trim_start_matches(|first: char| first.is_ascii_digit());
    let (count, _) = text.split_at(text.len() - unit.len());
    let unit = match unit {
        "ns" => 1,
        "s" => SECOND.get(),
        "min" => MINUTE.get(),
        "h" => HOUR.get(),
        "d" => 24 * HOUR.get(),
        _ => return None,
    };
    if count.is_empty() {
        return Some(Some(unit));
    }
    // Only digits: what cannot be read is too large.
    Some(count.parse::<u64>().ok().and_then(|count| count.checked_mul(unit)))
}

impl PriceBook {
    /// A book without prices.
    ///
    /// # Errors
    /// [`InputError::Malformed`] unless `currency` is three letters from `A` to `Z`.
    pub fn new(version: u32, currency: &str) -> Result<Self, InputError> {
        Ok(Self { version, currency: currency.parse()?, prices: Vec::new() })
    }

    /// The book with one more price, in micro-units of its currency for a GPU-second. Model and tier may be `*`.
    /// [`PriceBook::price_at`] takes prices of another time.
    ///
    /// # Errors
    /// [`InputError::Empty`], [`InputError::TooLong`] or [`InputError::Character`] for a name; [`InputError::Repeated`]
    /// for a pair that has a price already; [`InputError::TooLong`] for more than [`PRICES_MAX`] prices.
    ///
    /// # Complexity
    /// O(prices) for one that comes out of order, O(log prices) in ascending order.
    pub fn price(self, model: &str, tier: &str, micros_per_second: u64) -> Result<Self, InputError> {
        self.price_at(model, tier, Price::per_second(micros_per_second))
    }

    /// The book with one more price. Model and tier may be `*`.
    ///
    /// # Errors
    /// As [`PriceBook::price`].
    ///
    /// # Complexity
    /// As [`PriceBook::price`].
    pub fn price_at(mut self, model: &str, tier: &str, price: Price) -> Result<Self, InputError> {
        let entry = Entry { model: model.into(), tier: tier.into(), price };
        entry.validate()?;
        let Err(at) = self.find(model, tier) else { return Err(InputError::Repeated { field: "prices" }) };
        check_count(self.prices.len() + 1)?;
        self.prices.insert(at, entry);
        Ok(self)
    }

    /// The version: which prices a settlement was made with.
    pub const fn version(&self) -> u32 {
        self.version
    }

    /// The currency of all its prices.
    pub const fn currency(&self) -> Currency {
        self.currency
    }

    /// How many prices it has.
    pub fn len(&self) -> usize {
        self.prices.len()
    }

    /// Whether it has no price at all.
    pub fn is_empty(&self) -> bool {
        self.prices.is_empty()
    }

    /// The price of a model in a tier, by the order the type's text gives. A customer without a tier has the tier "",
    /// which only `*` answers.
    ///
    /// # Complexity
    /// O(log prices).
    pub fn resolve(&self, model: &str, tier: &str) -> Option<Price> {
        for (model, tier) in [(model, tier), (model, ANY), (ANY, tier), (ANY, ANY)] {
            if let Ok(at) = self.find(model, tier) {
                return Some(self.prices[at].price);
            }
        }
        None
    }

    /// All prices, ascending by model and tier.
    pub fn prices(&self) -> impl ExactSizeIterator<Item = (&str, &str, Price)> {
        self.prices.iter().map(|entry| (&*entry.model, &*entry.tier, entry.price))
    }

    fn find(&self, model: &str, tier: &str) -> Result<usize, usize> {
        self.prices.binary_search_by(|entry| entry.key().cmp(&(model, tier)))
    }
}

impl TryFrom<PriceBookForm> for PriceBook {
    type Error = InputError;

    fn try_from(form: PriceBookForm) -> Result<Self, InputError> {
        let PriceBookForm { version, currency, mut prices } = form;
        check_count(prices.len())?;
        prices.iter().try_for_each(Entry::validate)?;
        prices.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        if prices.windows(2).any(|pair| pair[0].key() == pair[1].key()) {
            return Err(InputError::Repeated { field: "prices" });
        }
        Ok(Self { version, currency, prices })
    }
}

impl Entry {
    fn key(&self) -> (&str, &str) {
        (&self.model, &self.tier)
    }

    fn validate(&self) -> Result<(), InputError> {
        check_name("model", &self.model, NAME_LEN_MAX)?;
        check_name("tier", &self.tier, NAME_LEN_MAX)
    }
}

fn check_count(len: usize) -> Result<(), InputError> {
    if len > PRICES_MAX {
        return Err(InputError::TooLong { field: "prices", len, max: PRICES_MAX });
    }
    Ok(())
}

/// Most prices in one book.
pub const PRICES_MAX: usize = 4_096;

const ANY: &str = "*";
const SECOND: NonZeroU64 = NonZeroU64::MIN.saturating_add(999_999_999);
const MINUTE: NonZeroU64 = SECOND.saturating_mul(NonZeroU64::MIN.saturating_add(59));
const HOUR: NonZeroU64 = MINUTE.saturating_mul(NonZeroU64::MIN.saturating_add(59));

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn per_second(micros: u64) -> Price {
        Price::per_second(micros)
    }

    fn nanos(nanos: u64) -> GpuNanos {
        GpuNanos::from_nanos(nanos)
    }

    fn book() -> PriceBook {
        PriceBook::new(3, "USD").unwrap()
    }

    #[test]
    fn the_most_telling_entry_wins_in_whatever_order_it_came() {
        let entries = [("dev", "gold", 1), ("dev", "*", 2), ("*", "gold", 3), ("*", "*", 4)];
        for turn in 0..entries.len() {
            let mut book = book();
            for n in 0..entries.len() {
                let (model, tier, micros) = entries[(n + turn) % entries.len()];
                book = book.price(model, tier, micros).unwrap();
            }
            for (model, tier, micros) in [
                ("dev", "gold", 1),
                ("dev", "", 2),
                ("dev", "tin", 2),
                ("dex", "gold", 3),
                ("dex", "tin", 4),
                ("", "", 4),
            ] {
                assert_eq!(book.resolve(model, tier), Some(per_second(micros)), "{model} {tier}");
            }
        }
    }

    #[test]
    fn each_entry_gives_way_to_the_next_general_one() {
        let entries = [("dev", "gold", 1), ("dev", "*", 2), ("*", "gold", 3), ("*", "*", 4)];
        for gone in 0..entries.len() {
            let left = entries[gone..].iter().fold(book(), |book, (m, t, micros)| book.price(m, t, *micros).unwrap());
            assert_eq!(left.resolve("dev", "gold"), Some(per_second(entries[gone].2)));
        }
    }

    #[test]
    fn an_unknown_price_is_unknown_and_a_free_one_is_free() {
        let book = book().price("dev", "gold", 0).unwrap();
        assert_eq!(book.resolve("dev", "gold"), Some(per_second(0)));
        assert_eq!(per_second(0).charge(GpuNanos::from_secs(1)), Ok(Money::ZERO));
        for (model, tier) in [("dev", "tin"), ("", ""), ("*", "*"), ("devgold", ""), ("de", "vgold")] {
            assert_eq!(book.resolve(model, tier), None);
        }
    }

    #[test]
    fn the_largest_charge_that_fits_is_made_and_the_next_is_refused() {
        let second = GpuNanos::from_secs(1);
        assert_eq!(per_second(u64::MAX).charge(second), Ok(Money::MAX));
        let longer = GpuNanos::from_nanos(1_000_000_001);
        assert_eq!(per_second(u64::MAX).charge(longer), Err(BillingError::ChargeOverflow));
        let all = GpuNanos::from_nanos(u64::MAX);
        assert_eq!(per_second(u64::MAX).charge(all), Err(BillingError::ChargeOverflow));
        assert_eq!(per_second(0).charge(all), Ok(Money::ZERO));
    }

    #[test]
    fn a_million_ties_lean_to_neither_side() {
        // One call in two ends half a micro-unit above an even amount, the other above an odd one.
        let price = per_second(1_000);
        let mut charged = 0;
        let mut exact_ns = 0;
        for n in 0..1_000_000_u64 {
            let usage = GpuNanos::from_nanos(500_000 + (n % 10) * 1_000_000);
            charged += price.charge(usage).unwrap().as_micros();
            exact_ns += usage.as_nanos();
        }
        assert_eq!(charged, exact_ns / 1_000_000);
    }

    #[test]
    fn books_refuse_what_cannot_be() {
        for code in ["", "US", "USDX", "usd", "U1D", "é$"] {
            assert!(PriceBook::new(1, code).is_err(), "{code}");
        }
        let one = book().price("dev", "*", 1).unwrap();
        assert_eq!(one.clone().price("dev", "*", 2), Err(InputError::Repeated { field: "prices" }));
        assert_eq!(one.clone().price("", "*", 2), Err(InputError::Empty { field: "model" }));
        assert_eq!(one.price("dev", "", 2), Err(InputError::Empty { field: "tier" }));
        let full = (0..PRICES_MAX).fold(book(), |book, n| book.price(&format!("m{n}"), "*", 1).unwrap());
        let one_more = full.price("x", "*", 1);
        assert_eq!(one_more, Err(InputError::TooLong { field: "prices", len: PRICES_MAX + 1, max: PRICES_MAX }));
    }

    #[test]
    fn books_survive_json_and_postcard_and_are_checked_again() {
        let book = book().price("dev", "*", 1_200).unwrap().price("*", "gold", 7).unwrap();
        let json = serde_json::to_string(&book).unwrap();
        assert_eq!(serde_json::from_str::<PriceBook>(&json).unwrap(), book);
        let bytes = postcard::to_allocvec(&book).unwrap();
        assert_eq!(postcard::from_bytes::<PriceBook>(&bytes).unwrap(), book);

        let entry = |model: &str| format!(r#"{{"model":"{model}","tier":"*","price":"0.000001/s"}}"#);
        let with = |prices: &str| format!(r#"{{"version":1,"currency":"USD","prices":[{prices}]}}"#);
        let unordered = with(&format!("{},{}", entry("b"), entry("a")));
        assert_eq!(serde_json::from_str::<PriceBook>(&unordered).unwrap().resolve("a", ""), Some(per_second(1)));
        for wrong in [
            with(&format!("{},{}", entry("a"), entry("a"))),
            with(&entry("")),
            with(&entry("a")).replace("USD", "usd"),
            with(&entry("a")).replace("version", "edition"),
        ] {
            assert!(serde_json::from_str::<PriceBook>(&wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn money_is_shown_as_a_canonical_decimal() {
        for (micros, text) in [(0, "0"), (1, "0.000001"), (2_040, "0.00204"), (u64::MAX, "18446744073709.551615")] {
            assert_eq!(Money::from_micros(micros).to_string(), text);
        }
        assert_eq!(Money::from_micros(u64::MAX).checked_add(Money::from_micros(1)), None);
    }

    #[test]
    fn a_price_an_hour_costs_for_an_hour_what_is_written() {
        // Prices were kept in whole micro-units a second: 0.0084 an hour was 2.33 micro-units a second, cut to 2, and
        // whoever rented for an hour paid 0.0072.
        for (text, seconds, micros) in [
            ("0.0084/h", 3_600, 8_400),
            ("0.0084/h", 1_800, 4_200),
            ("0.0084/h", 1, 2),
            ("1/min", 60, 1_000_000),
            ("1/min", 1, 16_667),
            ("2.49/h", 86_400, 59_760_000),
            ("12/d", 3_600, 500_000),
            ("0.0012/s", 2, 2_400),
            ("0.000000083/s", 1_000_000, 83_000),
            ("7/7ns", 1, 1_000_000_000_000_000),
        ] {
            let price: Price = text.parse().unwrap();
            assert_eq!(price.charge(GpuNanos::from_secs(seconds)), Ok(Money::from_micros(micros)), "{text} {seconds}");
        }
    }

    #[test]
    fn a_price_is_written_in_one_way_and_read_back_as_it_was() {
        for (text, told) in [
            ("0.0084/h", "0.0084/h"),
            ("0.00840/h", "0.0084/h"),
            ("1/60s", "1/min"),
            ("5/60min", "5/h"),
            ("24/d", "24/86400s"),
            ("0/s", "0/s"),
            ("00.5/s", "0.5/s"),
            ("0.0000015/s", "0.000015/10s"),
            ("3/250ns", "3/250ns"),
            ("18446744073709.551615/s", "18446744073709.551615/s"),
        ] {
            let price: Price = text.parse().unwrap();
            assert_eq!(price.to_string(), told);
            assert_eq!(told.parse::<Price>(), Ok(price));
        }
        for text in [
            "",
            "/",
            "1",
            "1/",
            "/h",
            ".5/h",
            "1./h",
            "-1/h",
            "+1/h",
            "1e3/h",
            "1/x",
            "1/h ",
            " 1/h",
            "1/1.5h",
            "1,5/h",
            "NaN/s",
            "1//s",
            "1/-1s",
            "\u{661}/s",
            "1/\u{661}s",
        ] {
            assert!(matches!(text.parse::<Price>(), Err(InputError::Malformed { .. })), "{text:?}");
        }
        for text in ["18446744073709.551616/s", "1/99999999999999999999s", "1/5124096h", "0.00000000000000000001/h"] {
            assert_eq!(text.parse::<Price>(), Err(InputError::Overflow { field: "price" }), "{text:?}");
        }
        assert!(matches!("1/0s".parse::<Price>(), Err(InputError::OutOfRange { field: "per", .. })));
        assert!(Price::new(1, Span::ZERO).is_err());
    }

    /// Quotient and remainder by long division, bit by bit, in a way the code under test does not go.
    fn nearest_even(product: u128, per: u64) -> u128 {
        let (mut quotient, mut rest) = (0_u128, 0_u128);
        for bit in (0..128).rev() {
            rest = rest << 1 | (product >> bit & 1);
            quotient <<= 1;
            if rest >= u128::from(per) {
                rest -= u128::from(per);
                quotient |= 1;
            }
        }
        let twice = rest * 2;
        let up = twice > u128::from(per) || (twice == u128::from(per) && quotient & 1 == 1);
        quotient + u128::from(up)
    }

    proptest! {
        #[test]
        fn a_charge_is_the_exact_product_rounded_once(
            used in prop_oneof![any::<u64>(), 0..10_000_000_000_u64, Just(u64::MAX)],
            micros in prop_oneof![any::<u64>(), 0..1_000_000_u64, Just(u64::MAX)],
            per in prop_oneof![1..=u64::MAX, 1..10_000_u64, Just(u64::MAX), Just(HOUR.get())],
        ) {
            let exact = nearest_even(u128::from(used) * u128::from(micros), per);
            let charge = Price::new(micros, Span::from_nanos(per)).unwrap().charge(nanos(used));
            match u64::try_from(exact) {
                Ok(exact) => prop_assert_eq!(charge, Ok(Money::from_micros(exact))),
                Err(_) => prop_assert_eq!(charge, Err(BillingError::ChargeOverflow)),
            }
        }

        #[test]
        fn every_price_is_told_as_a_text_that_is_that_price(micros in any::<u64>(), per in 1..=u64::MAX) {
            for per in [per, per % 1_000 + 1, (per % 100_000 + 1) * SECOND.get()] {
                let price = Price::new(micros, Span::from_nanos(per)).unwrap();
                prop_assert_eq!(price.to_string().parse::<Price>(), Ok(price));
                let json = serde_json::to_string(&price).unwrap();
                prop_assert_eq!(serde_json::from_str::<Price>(&json).unwrap(), price);
                let bytes = postcard::to_allocvec(&price).unwrap();
                prop_assert_eq!(postcard::from_bytes::<Price>(&bytes).unwrap(), price);
            }
        }

        #[test]
        fn a_charge_is_off_by_at_most_half_a_micro_unit_and_a_tie_is_even(
            nanos in prop_oneof![any::<u64>(), (0..1_000_u64).prop_map(|n| n * 500_000)],
            micros in prop_oneof![0..1_000_000_000_u64, Just(1_000)],
        ) {
            let exact = u128::from(nanos) * u128::from(micros);
            let charge = per_second(micros).charge(GpuNanos::from_nanos(nanos)).unwrap();
            let charge = u128::from(charge.as_micros());
            // Twice the distance, so that half a micro-unit is a whole number.
            let second = u128::from(SECOND.get());
            let twice_off = (charge * second).abs_diff(exact) * 2;
            prop_assert!(twice_off < second || (twice_off == second && charge % 2 == 0));
        }
    }
}
