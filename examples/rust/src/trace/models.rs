//! Names of models in a file, and the segments of routes that stand for them.

use std::borrow::Cow;

/// The segment that stands for a model's name. A route has no empty segment, so a model nobody named is called
/// `unknown`, and a model that is called so makes room.
pub(crate) fn model_segment(name: &str) -> Cow<'_, str> {
    if name.is_empty() {
        return Cow::Borrowed(UNKNOWN);
    }
    if is_unknown(name) { Cow::Owned(format!("{name}+")) } else { Cow::Borrowed(name) }
}

/// The inverse: the name that a segment stands for.
pub(crate) fn model_name(segment: &str) -> &str {
    match segment {
        UNKNOWN => "",
        _ if is_unknown(segment) => &segment[..segment.len() - 1],
        _ => segment,
    }
}

/// `unknown`, or that with any number of pluses.
fn is_unknown(name: &str) -> bool {
    name.strip_prefix(UNKNOWN).is_some_and(|rest| rest.bytes().all(|byte| byte == b'+'))
}

const UNKNOWN: &str = "unknown";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_comes_back_and_no_two_share_a_segment() {
        let names = ["", "unknown", "unknown+", "unknown++", "unknown+x", "M0000", "Unknown"];
        let mut segments: Vec<_> = names.iter().map(|name| model_segment(name).into_owned()).collect();
        assert!(names.iter().zip(&segments).all(|(name, segment)| model_name(segment) == *name && !segment.is_empty()));
        segments.sort_unstable();
        segments.dedup();
        assert_eq!(segments.len(), names.len());
    }
}
