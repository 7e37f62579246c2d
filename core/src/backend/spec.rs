//! What a host says of a backend.

#![expect(clippy::indexing_slicing, reason = "the index is in range by the line above it or by the type")]

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use crate::error::InputError;
use crate::id::{NAME_LEN_MAX, check_name};
use crate::time::Span;

/// The engine a backend runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum BackendKind {
    /// Nunchaku.
    Nunchaku,
    /// PyTorch.
    Torch,
    /// TensorRT or TensorRT-LLM.
    Tensorrt,
    /// vLLM.
    Vllm,
    /// SGLang.
    Sglang,
    /// Anything else.
    Other,
}

/// The models of a family that a backend serves.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Models {
    /// Every model of the family, also ones nobody has named yet.
    All,
    /// Those named, sorted.
    Only(Vec<String>),
}

/// A backend: one worker or pool of workers that serves models of one family.
///
/// One backend serves one family, so that the fair share of a customer is counted in one place. A machine that serves
/// several families is several backends.
///
/// ```
/// use libgateway::{Backend, BackendKind};
/// let backend = Backend::new("flux-1", BackendKind::Torch).serves("image", "flux", ["schnell", "dev"]).slots(4);
/// assert_eq!(backend.slots, 4);
/// assert!(backend.check().is_ok());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Backend {
    /// Its name, unique within a gateway.
    pub name: String,
    /// The engine it runs.
    pub kind: BackendKind,
    /// Modality it serves, for example `image`.
    pub modality: String,
    /// Family it serves, for example `flux`.
    pub family: String,
    /// Models it serves.
    pub models: Models,
    /// Leases it takes at once, 1 to [`SLOTS_MAX`].
    #[serde(default = "one")]
    pub slots: u32,
    /// GPUs that work for one lease: the reported usage may name so many devices. 1 to 64.
    #[serde(default = "one")]
    pub devices: u32,
    /// Affinity keys it keeps warm at once: the latest ones it worked for. At most [`WARM_MAX`]; 0 switches warmth off.
    #[serde(default = "one")]
    pub warm_max: u32,
    /// A lease ends when nothing was heard for this long; `None` takes the gateway's default.
    #[serde(default)]
    pub lease_for: Option<Span>,
    /// Free words about it, for the host: endpoint, region, driver. At most 16 pairs.
    #[serde(default)]
    pub labels: Vec<(String, String)>,
}

impl BackendKind {
    /// Every kind with its name.
    pub const ALL: [(Self, &'static str); 6] = [
        (Self::Nunchaku, "nunchaku"),
        (Self::Torch, "torch"),
        (Self::Tensorrt, "tensorrt"),
        (Self::Vllm, "vllm"),
        (Self::Sglang, "sglang"),
        (Self::Other, "other"),
    ];

    /// The name of the kind.
    pub fn as_str(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, name)| name)
    }

    /// The kind of that exact name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, own)| *own == name).map(|(kind, _)| *kind)
    }
}

impl Models {
    /// Whether `model` is among them.
    ///
    /// # Complexity
    /// O(log n) of the models named.
    pub fn contains(&self, model: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(models) => models.binary_search_by(|own| own.as_str().cmp(model)).is_ok(),
        }
    }
}

impl Backend {
    /// A backend of one slot that serves nothing yet.
    pub fn new(name: impl Into<String>, kind: BackendKind) -> Self {
        Self {
            name: name.into(),
            kind,
            modality: String::new(),
            family: String::new(),
            models: Models::Only(Vec::new()),
            slots: 1,
            devices: 1,
            warm_max: 1,
            lease_for: None,
            labels: Vec::new(),
        }
    }

    /// Serves these models of a family; `["*"]` means all, also ones nobody has named yet.
    #[must_use]
    pub fn serves<M: Into<String>>(
        mut self,
        modality: impl Into<String>,
        family: impl Into<String>,
        models: impl IntoIterator<Item = M>,
    ) -> Self {
        self.modality = modality.into();
        self.family = family.into();
        let mut models: Vec<String> = models.into_iter().map(Into::into).collect();
        models.sort_unstable();
        self.models = if models == ["*"] { Models::All } else { Models::Only(models) };
        self
    }

    /// Takes so many leases at once.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// Uses so many GPUs for one lease.
    #[must_use]
    pub fn devices(mut self, devices: u32) -> Self {
        self.devices = devices;
        self
    }

    /// Keeps so many affinity keys warm.
    #[must_use]
    pub fn warm_max(mut self, warm_max: u32) -> Self {
        self.warm_max = warm_max;
        self
    }

    /// Ends a lease when nothing was heard of it for `span`.
    #[must_use]
    pub fn lease_for(mut self, span: Span) -> Self {
        self.lease_for = Some(span);
        self
    }

    /// Adds a free word about it.
    #[must_use]
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.labels.push((key.into(), value.into()));
        self
    }

    /// Checks every field.
    ///
    /// # Errors
    /// The first of `name`, `modality`, `family`, `models`, `slots`, `devices`, `warm_max`, `lease_for`, `labels` that
    /// cannot be.
    pub fn check(&self) -> Result<(), InputError> {
        check_name("name", &self.name, NAME_LEN_MAX)?;
        check_segment("modality", &self.modality)?;
        check_segment("family", &self.family)?;
        if let Models::Only(models) = &self.models {
            if models.is_empty() {
                return Err(InputError::Empty { field: "models" });
            }
            if models.len() > MODELS_MAX {
                return Err(InputError::TooLong { field: "models", len: models.len(), max: MODELS_MAX });
            }
            for model in models {
                check_segment("models", model)?;
            }
            if let Some(pair) = models.windows(2).find(|pair| pair[0] >= pair[1]) {
                let field = "models";
                return Err(if pair[0] == pair[1] {
                    InputError::Repeated { field }
                } else {
                    InputError::Malformed { field, expected: "names in ascending order" }
                });
            }
        }
        check_range("slots", u64::from(self.slots), 1, u64::from(SLOTS_MAX))?;
        check_range("devices", u64::from(self.devices), 1, 64)?;
        check_range("warm_max", u64::from(self.warm_max), 0, u64::from(WARM_MAX))?;
        if let Some(span) = self.lease_for {
            check_range("lease_for", span.as_nanos(), 1, u64::MAX)?;
        }
        if self.labels.len() > LABELS_MAX {
            return Err(InputError::TooLong { field: "labels", len: self.labels.len(), max: LABELS_MAX });
        }
        for (key, value) in &self.labels {
            check_name("labels", key, NAME_LEN_MAX)?;
            if value.len() > LABEL_LEN_MAX {
                return Err(InputError::TooLong { field: "labels", len: value.len(), max: LABEL_LEN_MAX });
            }
        }
        Ok(())
    }
}

/// Checks one segment of a route: a name of letters, digits, `.`, `_`, `-`, `:`, `@` or `+`, at most 64 bytes.
pub(crate) fn check_segment(field: &'static str, text: &str) -> Result<(), InputError> {
    if text.is_empty() {
        return Err(InputError::Empty { field });
    }
    if text.len() > SEGMENT_LEN_MAX {
        return Err(InputError::TooLong { field, len: text.len(), max: SEGMENT_LEN_MAX });
    }
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@+".contains(&byte);
    match text.bytes().position(|byte| !allowed(byte)) {
        Some(at) => Err(InputError::Character { field, at }),
        None => Ok(()),
    }
}

pub(crate) fn check_range(field: &'static str, value: u64, min: u64, max: u64) -> Result<(), InputError> {
    if (min..=max).contains(&value) { Ok(()) } else { Err(InputError::OutOfRange { field, value, min, max }) }
}

fn one() -> u32 {
    1
}

/// Most leases one backend takes at once.
pub const SLOTS_MAX: u32 = 65_536;
/// Most affinity keys one backend keeps warm.
pub const WARM_MAX: u32 = 64;
/// Longest segment of a route, in bytes.
pub const SEGMENT_LEN_MAX: usize = 64;
const MODELS_MAX: usize = 4_096;
const LABELS_MAX: usize = 16;
const LABEL_LEN_MAX: usize = 1_024;
