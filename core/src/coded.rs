//! What errors are made of: their number and name, and the two that every part uses.

use thiserror::Error;

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
#[error("{what} is full, its limit is {max}")]
pub struct Full {
    /// The table, named as its limit in the configuration without `_max`.
    pub what: &'static str,
    /// The limit.
    pub max: u64,
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
}

pub(crate) const FULL: &[(u16, &str)] = &[(301, "full")];

pub(crate) use coded;
