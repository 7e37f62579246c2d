//! Text within markup. Names come from the trace: they are hostile until proven otherwise.

/// The text so that no browser takes any of it for markup.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Marks that turn the direction of writing would rearrange what stands beside the name.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => escaped.push('\u{fffd}'),
            _ if character.is_control() => escaped.push('\u{fffd}'),
            _ => escaped.push(character),
        }
    }
    escaped
}

/// At most `max` characters of a name, escaped; the rest is told as an ellipsis. A name that is empty is told so.
pub(super) fn label(name: &str, max: usize) -> String {
    if name.is_empty() {
        return "(no name)".to_owned();
    }
    if name.chars().count() <= max {
        return escape(name);
    }
    let short: String = name.chars().take(max.saturating_sub(1)).collect();
    escape(&short) + "…"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_markup_gets_through() {
        assert_eq!(
            escape("<script>'a' & \"b\"</script>"),
            "&lt;script&gt;&#39;a&#39; &amp; &quot;b&quot;&lt;/script&gt;"
        );
        assert_eq!(escape("a\u{202e}b\u{0}"), "a\u{fffd}b\u{fffd}");
        assert_eq!(label("<<<<<", 3), "&lt;&lt;…");
        assert_eq!((label("äöü", 3), label("", 3)), ("äöü".to_owned(), "(no name)".to_owned()));
    }
}
