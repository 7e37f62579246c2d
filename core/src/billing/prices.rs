//! Money, and what a GPU-second costs.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use alloc::borrow::ToOwned;
use alloc::boxed::Box;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{BillingError, InputError};
use crate::id::{NAME_LEN_MAX, check_name};
use crate::time::{GpuNanos, write_decimal};

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

/// What a GPU-second of one model costs in one tier. Sixteen bytes to keep at hand, until the book changes.
///
/// ```
/// use libgateway::{GpuNanos, Money, Price};
/// let price = Price::PerSecond(Money::from_micros(1_200));
/// assert_eq!(price.charge(GpuNanos::from_millis(1_700)), Ok(Some(Money::from_micros(2_040))));
/// assert_eq!(Price::Unpriced.charge(GpuNanos::from_millis(1_700)), Ok(None));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Price {
    /// The book has no price: what this costs is not known. It is not free, and the settlement says so.
    Unpriced,
    /// So much for a GPU-second; zero is a price, too.
    PerSecond(Money),
}

/// What a GPU-second costs, by model and tier, in one version of one currency.
///
/// A model or tier may be `*`, any. The most telling entry wins: (model, tier), then (model, `*`), then (`*`, tier),
/// then (`*`, `*`), then [`Price::Unpriced`]: a forgotten price must be seen, so it is never taken for zero. A book
/// never changes once it is in use; a new one has a higher version.
///
/// ```
/// use libgateway::{Money, Price, PriceBook};
/// let book = PriceBook::new(7, "USD")?.price("flux/dev", "*", 1_200)?.price("*", "batch", 800)?;
/// assert_eq!(book.resolve("flux/dev", "batch"), Price::PerSecond(Money::from_micros(1_200)));
/// assert_eq!(book.resolve("wan/default", "batch"), Price::PerSecond(Money::from_micros(800)));
/// assert_eq!(book.resolve("wan/default", "live"), Price::Unpriced);
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
    micros_per_second: u64,
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
    /// What `usage` costs at this price; `None` where there is no price.
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
    /// let price = Price::PerSecond(Money::from_micros(1_000));
    /// // 2.5 micro-units and 3.5 micro-units.
    /// assert_eq!(price.charge(GpuNanos::from_nanos(2_500_000)), Ok(Some(Money::from_micros(2))));
    /// assert_eq!(price.charge(GpuNanos::from_nanos(3_500_000)), Ok(Some(Money::from_micros(4))));
    /// ```
    pub fn charge(self, usage: GpuNanos) -> Result<Option<Money>, BillingError> {
        let Self::PerSecond(Money(micros)) = self else { return Ok(None) };
        let product = u128::from(usage.as_nanos()) * u128::from(micros);
        let (whole, rest) = (product / NANOS_PER_SEC, product % NANOS_PER_SEC);
        let up = rest > NANOS_PER_SEC / 2 || (rest == NANOS_PER_SEC / 2 && whole % 2 == 1);
        match u64::try_from(whole + u128::from(up)) {
            Ok(micros) => Ok(Some(Money(micros))),
            Err(_) => Err(BillingError::ChargeOverflow),
        }
    }
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
    ///
    /// # Errors
    /// [`InputError::Empty`], [`InputError::TooLong`] or [`InputError::Character`] for a name; [`InputError::Repeated`]
    /// for a pair that has a price already; [`InputError::TooLong`] for more than [`PRICES_MAX`] prices.
    ///
    /// # Complexity
    /// O(prices) for one that comes out of order, O(log prices) in ascending order.
    pub fn price(mut self, model: &str, tier: &str, micros_per_second: u64) -> Result<Self, InputError> {
        let entry = Entry { model: model.into(), tier: tier.into(), micros_per_second };
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
    pub fn resolve(&self, model: &str, tier: &str) -> Price {
        for (model, tier) in [(model, tier), (model, ANY), (ANY, tier), (ANY, ANY)] {
            if let Ok(at) = self.find(model, tier) {
                return Price::PerSecond(Money(self.prices[at].micros_per_second));
            }
        }
        Price::Unpriced
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
const NANOS_PER_SEC: u128 = 1_000_000_000;

#[cfg(test)]
mod tests {
    use std::format;
    use std::string::ToString;

    use proptest::prelude::*;

    use super::*;

    fn per_second(micros: u64) -> Price {
        Price::PerSecond(Money::from_micros(micros))
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
                assert_eq!(book.resolve(model, tier), per_second(micros), "{model} {tier}");
            }
        }
    }

    #[test]
    fn each_entry_gives_way_to_the_next_general_one() {
        let entries = [("dev", "gold", 1), ("dev", "*", 2), ("*", "gold", 3), ("*", "*", 4)];
        for gone in 0..entries.len() {
            let left = entries[gone..].iter().fold(book(), |book, (m, t, micros)| book.price(m, t, *micros).unwrap());
            assert_eq!(left.resolve("dev", "gold"), per_second(entries[gone].2));
        }
    }

    #[test]
    fn an_unknown_price_is_unknown_and_a_free_one_is_free() {
        let book = book().price("dev", "gold", 0).unwrap();
        assert_eq!(book.resolve("dev", "gold"), per_second(0));
        assert_eq!(book.resolve("dev", "gold").charge(GpuNanos::from_secs(1)), Ok(Some(Money::ZERO)));
        for (model, tier) in [("dev", "tin"), ("", ""), ("*", "*"), ("devgold", ""), ("de", "vgold")] {
            assert_eq!(book.resolve(model, tier), Price::Unpriced);
        }
    }

    #[test]
    fn the_largest_charge_that_fits_is_made_and_the_next_is_refused() {
        let second = GpuNanos::from_secs(1);
        assert_eq!(per_second(u64::MAX).charge(second), Ok(Some(Money::from_micros(u64::MAX))));
        let longer = GpuNanos::from_nanos(1_000_000_001);
        assert_eq!(per_second(u64::MAX).charge(longer), Err(BillingError::ChargeOverflow));
        let all = GpuNanos::from_nanos(u64::MAX);
        assert_eq!(per_second(u64::MAX).charge(all), Err(BillingError::ChargeOverflow));
        assert_eq!(per_second(0).charge(all), Ok(Some(Money::ZERO)));
    }

    #[test]
    fn a_million_ties_lean_to_neither_side() {
        // One call in two ends half a micro-unit above an even amount, the other above an odd one.
        let price = per_second(1_000);
        let mut charged = 0;
        let mut exact_ns = 0;
        for n in 0..1_000_000_u64 {
            let usage = GpuNanos::from_nanos(500_000 + (n % 10) * 1_000_000);
            charged += price.charge(usage).unwrap().unwrap().as_micros();
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

        let entry = |model: &str| format!(r#"{{"model":"{model}","tier":"*","micros_per_second":1}}"#);
        let with = |prices: &str| format!(r#"{{"version":1,"currency":"USD","prices":[{prices}]}}"#);
        let unordered = with(&format!("{},{}", entry("b"), entry("a")));
        assert_eq!(serde_json::from_str::<PriceBook>(&unordered).unwrap().resolve("a", ""), per_second(1));
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

    proptest! {
        #[test]
        fn a_charge_is_off_by_at_most_half_a_micro_unit_and_a_tie_is_even(
            nanos in prop_oneof![any::<u64>(), (0..1_000_u64).prop_map(|n| n * 500_000)],
            micros in prop_oneof![0..1_000_000_000_u64, Just(1_000)],
        ) {
            let exact = u128::from(nanos) * u128::from(micros);
            let charge = per_second(micros).charge(GpuNanos::from_nanos(nanos)).unwrap().unwrap();
            let charge = u128::from(charge.as_micros());
            // Twice the distance, so that half a micro-unit is a whole number.
            let twice_off = (charge * NANOS_PER_SEC).abs_diff(exact) * 2;
            prop_assert!(twice_off < NANOS_PER_SEC || (twice_off == NANOS_PER_SEC && charge % 2 == 0));
        }
    }
}
