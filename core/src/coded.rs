//! What errors are made of: their number and name, and the two that every part uses.

use thiserror::Error;

use crate::time::Timestamp;

/// What every error of the library can say of itself.
pub trait Coded {
    /// The fixed number: hundreds tell the family.
    fn number(&self) -> u16;
    /// The fixed `snake_case` name.
    fn name(&self) -> &'static str;
    /// The input field the error is about, where there is one.
    fn field(&self) -> Option<&'static str> {
        None
    }
    /// The limit that is reached, where that is the error.
    fn limit(&self) -> Option<&Full> {
        None
    }
}

/// Declares the number and name of each variant of a family, and the list that [`ALL`] is made of.
macro_rules! coded {
    ($family:ident delegate $($inner:ident),+) => {
        impl Coded for $family {
            fn number(&self) -> u16 {
                match self {
                    $(Self::$inner(inner) => inner.number(),)+
                }
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$inner(inner) => inner.name(),)+
                }
            }

            fn field(&self) -> Option<&'static str> {
                match self {
                    $(Self::$inner(inner) => inner.field(),)+
                }
            }

            fn limit(&self) -> Option<&Full> {
                match self {
                    $(Self::$inner(inner) => inner.limit(),)+
                }
            }
        }
    };
    ($family:ident, $list:ident { $($variant:ident = $number:literal $name:literal),* $(,)? } $(delegate $($inner:ident),+)? $(field $field:expr)?) => {
        impl Coded for $family {
            fn number(&self) -> u16 {
                match self {
                    $(Self::$variant { .. } => $number,)*
                    $($(Self::$inner(inner) => inner.number(),)+)?
                }
            }

            fn name(&self) -> &'static str {
                match self {
                    $(Self::$variant { .. } => $name,)*
                    $($(Self::$inner(inner) => inner.name(),)+)?
                }
            }

            fn field(&self) -> Option<&'static str> {
                $($(if let Self::$inner(inner) = self {
                    return inner.field();
                })+)?
                $(
                    let field: fn(&Self) -> Option<&'static str> = $field;
                    return field(self);
                )?
                #[allow(unreachable_code, reason = "families without a field function end here")]
                None
            }

            fn limit(&self) -> Option<&Full> {
                $($(if let Self::$inner(inner) = self {
                    return inner.limit();
                })+)?
                None
            }
        }

        pub(crate) const $list: &[(u16, &str)] = &[$(($number, $name)),*];
    };
}

/// A value that cannot be: of a configuration or of a call. 2xx.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum InputError {
    /// The field is empty.
    #[error("{field} is empty")]
    Empty {
        /// The field.
        field: &'static str,
    },
    /// The field is longer than its limit.
    #[error("{field} is {len} long, at most {max} is allowed")]
    TooLong {
        /// The field.
        field: &'static str,
        /// Its length: bytes of a text, items of a list.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// The field has a character that is not allowed in it.
    #[error("{field} has a character that is not allowed at byte {at}")]
    Character {
        /// The field.
        field: &'static str,
        /// Where, in bytes.
        at: usize,
    },
    /// The number is outside its range.
    #[error("{field} is {value}, allowed is {min} to {max}")]
    OutOfRange {
        /// The field.
        field: &'static str,
        /// The number given.
        value: u64,
        /// Least allowed.
        min: u64,
        /// Most allowed.
        max: u64,
    },
    /// A sum or product of the field does not fit into 64 bits.
    #[error("{field} overflows 64 bits")]
    Overflow {
        /// The field.
        field: &'static str,
    },
    /// The field does not have the form it must have.
    #[error("{field} is malformed: expected {expected}")]
    Malformed {
        /// The field.
        field: &'static str,
        /// What was expected.
        expected: &'static str,
    },
    /// Two fields contradict each other.
    #[error("{field} contradicts {other}")]
    Contradiction {
        /// The field.
        field: &'static str,
        /// What it contradicts.
        other: &'static str,
    },
    /// The same value stands twice in a list that has each at most once.
    #[error("{field} has the same entry twice")]
    Repeated {
        /// The field.
        field: &'static str,
    },
}

coded!(InputError, INPUT {
    Empty = 201 "empty",
    TooLong = 202 "too_long",
    Character = 203 "character",
    OutOfRange = 204 "out_of_range",
    Overflow = 205 "overflow",
    Malformed = 206 "malformed",
    Contradiction = 207 "contradiction",
    Repeated = 208 "repeated",
} field |error| match error {
    InputError::Empty { field }
    | InputError::TooLong { field, .. }
    | InputError::Character { field, .. }
    | InputError::OutOfRange { field, .. }
    | InputError::Overflow { field }
    | InputError::Malformed { field, .. }
    | InputError::Contradiction { field, .. }
    | InputError::Repeated { field } => Some(field),
});

/// A bounded table has no room left. 3xx.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{what} is full: {measured} of at most {max}{}{}", scope.words(), if *settlements { ", settlements that are not confirmed count" } else { "" })]
#[non_exhaustive]
pub struct Full {
    /// The table, named as its limit in the configuration without `_max`.
    pub what: &'static str,
    /// Whose limit it is.
    pub scope: Scope,
    /// What is in it.
    pub measured: u64,
    /// The limit.
    pub max: u64,
    /// The first instant at which there will be room by itself, where that is known. There may be earlier: a job ends, or
    /// the host confirms a batch.
    pub retry_at: Option<Timestamp>,
    /// Whether entries of the outbox that the host has not confirmed are in it, too.
    pub settlements: bool,
}

/// Whose a limit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Scope {
    /// Of one customer: others may go on.
    Customer,
    /// Of the whole gateway.
    Gateway,
    /// Of a part that stands alone.
    Part,
}

impl Full {
    /// A table of `max` places of which `measured` are taken.
    pub const fn new(what: &'static str, scope: Scope, measured: u64, max: u64) -> Self {
        Self { what, scope, measured, max, retry_at: None, settlements: false }
    }

    /// Sets [`Full::retry_at`].
    #[must_use]
    pub const fn retry_at(mut self, at: Option<Timestamp>) -> Self {
        self.retry_at = at;
        self
    }

    /// Sets [`Full::settlements`].
    #[must_use]
    pub const fn with_settlements(mut self) -> Self {
        self.settlements = true;
        self
    }
}

impl Scope {
    /// Its name: `customer`, `gateway` or `part`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Customer => "customer",
            Self::Gateway => "gateway",
            Self::Part => "part",
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Customer => " for this customer",
            Self::Gateway => " in this gateway",
            Self::Part => "",
        }
    }
}

impl Coded for Full {
    fn number(&self) -> u16 {
        301
    }

    fn name(&self) -> &'static str {
        "full"
    }

    fn field(&self) -> Option<&'static str> {
        Some(self.what)
    }

    fn limit(&self) -> Option<&Full> {
        Some(self)
    }
}

pub(crate) const FULL: &[(u16, &str)] = &[(301, "full")];

pub(crate) use coded;
