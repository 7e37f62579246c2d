//! A file of the repository, and Rust cut into words: what stands in a comment, a string or a character is not code.

use std::fmt;

/// What a rule has against a place in the repository.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) what: String,
}

/// One file: its text and, where it is Rust, its words.
pub(crate) struct Source {
    pub(crate) path: String,
    pub(crate) text: String,
    pub(crate) tokens: Vec<Token>,
    /// Files that `#[cfg(test)] mod name;` here declares: each a path, or a folder ending in `/`.
    pub(crate) test_files: Vec<String>,
}

/// A word, a number, a `::`, a `&&`, or one sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) line: usize,
    /// Compiled for tests only.
    pub(crate) test: bool,
}

impl Finding {
    pub(crate) fn new(path: &str, line: usize, what: impl Into<String>) -> Self {
        Self { path: path.into(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

impl Source {
    pub(crate) fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let mut source = Self { path: path.into(), text: text.into(), tokens: Vec::new(), test_files: Vec::new() };
        if source.extension() == "rs" {
            source.tokens = tokens(&source.text);
            let names = mark_tests(&mut source.tokens);
            let home = source.home();
            source.test_files = names.iter().flat_map(|n| [format!("{home}/{n}.rs"), format!("{home}/{n}/")]).collect();
        }
        if source.path.split('/').any(|part| part == "tests") {
            source.mark_test_file();
        }
        source
    }

    /// All of this file is compiled for tests only.
    pub(crate) fn mark_test_file(&mut self) {
        self.tokens.iter_mut().for_each(|token| token.test = true);
    }

    pub(crate) fn extension(&self) -> &str {
        self.path.rsplit('/').next().and_then(|name| name.rsplit_once('.')).map_or("", |(_, extension)| extension)
    }

    /// The module of `core` this file belongs to: `queue` for `core/src/queue.rs` and for `core/src/queue/lane.rs`.
    pub(crate) fn core_module(&self) -> Option<&str> {
        let inside = self.path.strip_prefix("core/src/")?.strip_suffix(".rs")?;
        inside.split('/').next()
    }

    /// How many modules deep in `core` this file is: 1 for `queue.rs` and `queue/mod.rs`, 2 for `queue/lane.rs`.
    pub(crate) fn core_depth(&self) -> usize {
        let inside = self.path.strip_prefix("core/src/").unwrap_or(&self.path);
        inside.strip_suffix("/mod.rs").unwrap_or(inside).split('/').count()
    }

    /// A finding where `token` stands.
    pub(crate) fn at(&self, token: &Token, what: impl Into<String>) -> Finding {
        Finding::new(&self.path, token.line, what)
    }

    /// The folder in which this file's own modules lie.
    fn home(&self) -> String {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or((".", &self.path));
        match name {
            "mod.rs" | "lib.rs" | "main.rs" => folder.into(),
            _ => format!("{folder}/{}", name.trim_end_matches(".rs")),
        }
    }
}

/// The text of the token at `at`, or nothing past the end.
pub(crate) fn text(tokens: &[Token], at: usize) -> &str {
    tokens.get(at).map_or("", |token| token.text.as_str())
}

/// Whether the tokens from `at` on read as `words`.
pub(crate) fn reads(tokens: &[Token], at: usize, words: &[&str]) -> bool {
    words.iter().enumerate().all(|(offset, word)| text(tokens, at + offset) == *word)
}

/// Cuts Rust into tokens.
pub(crate) fn tokens(source: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: source, line: 1, found: Vec::new() };
    while lexer.step() {}
    lexer.found
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    found: Vec<Token>,
}

impl Lexer<'_> {
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        let second = self.rest[first.len_utf8()..].chars().next().unwrap_or(' ');
        if let Some(length) = literal(self.rest) {
            self.skip(length);
        } else if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if first == '\'' {
            self.skip(1 + word(&self.rest[1..]));
        } else if self.rest.starts_with("r#") {
            self.skip(2);
        } else if first.is_ascii_digit() {
            self.take(number(self.rest, text(&self.found, self.found.len().wrapping_sub(1)) == "."));
        } else if word(self.rest) > 0 {
            self.take(word(self.rest));
        } else if (first, second) == (':', ':') || (first, second) == ('&', '&') {
            self.take(2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.take(first.len_utf8());
        }
        true
    }

    fn skip(&mut self, length: usize) {
        let (gone, rest) = self.rest.split_at(length);
        self.line += gone.matches('\n').count();
        self.rest = rest;
    }

    fn take(&mut self, length: usize) {
        let (token, rest) = self.rest.split_at(length);
        self.found.push(Token { text: token.into(), line: self.line, test: false });
        self.rest = rest;
    }
}

/// The length of the identifier at the start, 0 if there is none.
fn word(rest: &str) -> usize {
    rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len())
}

/// The length of the number at the start. After a dot it is a tuple's field, and `x.0.1` holds no float.
fn number(rest: &str, is_field: bool) -> usize {
    let whole = word(rest);
    let after = &rest[whole..];
    match after.strip_prefix('.') {
        Some(fraction) if !is_field && fraction.starts_with(|c: char| c.is_ascii_digit()) => whole + 1 + word(fraction),
        Some(fraction) if !is_field && !fraction.starts_with(|c: char| c == '.' || c == '_' || c.is_alphabetic()) => {
            whole + 1
        }
        _ => whole,
    }
}

/// The length of the string or character literal at the start, prefix and hashes included.
fn literal(rest: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let after = rest.strip_prefix(prefix).unwrap_or("");
        after.starts_with(['"', '\'']) || (prefix.ends_with('r') && after.trim_start_matches('#').starts_with('"'))
    })?;
    let body = &rest[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.len() - body.trim_start_matches('#').len();
        let end = format!("\"{}", "#".repeat(hashes));
        let inside = body.get(hashes + 1..)?;
        return Some(prefix.len() + hashes + 1 + inside.find(&end).map_or(inside.len(), |at| at + end.len()));
    }
    let quote = body.chars().next()?;
    let mut inside = body[1..].char_indices();
    if quote == '\'' {
        // `'a` is a lifetime, `'a'` a character.
        let (_, first) = inside.next()?;
        if first != '\\' {
            return body[1 + first.len_utf8()..].starts_with('\'').then_some(prefix.len() + 2 + first.len_utf8());
        }
        inside.next();
    }
    while let Some((at, c)) = inside.next() {
        if c == quote {
            return Some(prefix.len() + 1 + at + 1);
        }
        if c == '\\' {
            inside.next();
        }
    }
    Some(rest.len())
}

/// The length of the comment at the start; Rust's block comments nest.
fn block_comment(rest: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    at
}

/// Marks every item under `#[cfg(test)]` or `#[cfg(all(test, ..))]`, and names the modules so declared in other files.
fn mark_tests(tokens: &mut [Token]) -> Vec<String> {
    let mut declared = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        let is_inner = reads(tokens, at, &["#", "!", "["]);
        if !is_inner && !reads(tokens, at, &["#", "["]) {
            at += 1;
            continue;
        }
        let open = at + 1 + usize::from(is_inner);
        let attribute_end = closing(tokens, open);
        let is_test = reads(tokens, open, &["[", "cfg", "(", "test", ")"])
            || (reads(tokens, open, &["[", "cfg", "(", "all", "("])
                && (open..attribute_end).any(|i| text(tokens, i) == "test" && text(tokens, i + 1) != "="));
        if !is_test {
            at = attribute_end + 1;
            continue;
        }
        let end = if is_inner { tokens.len() } else { item_end(tokens, attribute_end + 1) };
        if let Some(name) = (attribute_end..end).find(|&i| reads(tokens, i, &["mod"]) && text(tokens, i + 2) == ";") {
            declared.push(text(tokens, name + 1).to_owned());
        }
        tokens.iter_mut().take(end).skip(at).for_each(|token| token.test = true);
        at = end.max(at + 1);
    }
    declared
}

/// One past the item at `at`: its `;`, or its first block.
fn item_end(tokens: &[Token], mut at: usize) -> usize {
    while at < tokens.len() {
        match text(tokens, at) {
            ";" => return at + 1,
            "{" => return (closing(tokens, at) + 1).min(tokens.len()),
            "(" | "[" => at = closing(tokens, at) + 1,
            _ => at += 1,
        }
    }
    tokens.len()
}

/// Where the bracket that opens at `open` closes.
pub(crate) fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for at in open..tokens.len() {
        match text(tokens, at) {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    tokens.len()
}

fn words(source: &str) -> Vec<String> {
    tokens(source).into_iter().map(|token| token.text).collect()
}

#[test]
fn comments_strings_and_characters_are_not_code() {
    let source = r###"
        // unsafe
        /* unsafe /* unsafe */ unsafe */
        let a = "unsafe \" unsafe"; let b = r#"unsafe " unsafe"#; let c = b"unsafe"; let d = 'u'; let e = '\''; let f = b'"';
        fn g<'unsafe_>(x: &'static str) {}
    "###;
    assert!(!words(source).contains(&"unsafe".to_owned()), "{:?}", words(source));
    assert_eq!(words(source).last().map(String::as_str), Some("}"));
    assert_eq!(
        words("let r#unsafe = 'x' + 'ä' + '\\u{1F600}' + unsafe"),
        ["let", "unsafe", "=", "+", "+", "+", "unsafe"]
    );
}

#[test]
fn numbers_keep_their_fraction_and_tuple_fields_have_none() {
    assert_eq!(
        words("1.5 x.0.1 0..9 1.max(2) 2."),
        "1.5 x . 0 . 1 0 . . 9 1 . max ( 2 ) 2.".split(' ').collect::<Vec<_>>()
    );
}

#[test]
fn lines_are_counted_through_everything_skipped() {
    let found = tokens("/* \n */ \"\n\n\" x\n// y\nz");
    assert_eq!(found.iter().map(|t| (t.text.as_str(), t.line)).collect::<Vec<_>>(), [("x", 4), ("z", 6)]);
}

#[test]
fn test_code_is_what_the_attribute_covers_and_no_more() {
    let source = Source::new(
        "core/src/queue/lane.rs",
        "#[cfg(test)] use a::{b}; before\n#[cfg(test)] #[allow(x)] mod tests { fn t(a: [u8; 3]) { in_test } }\n\
         #[cfg(all(test, feature = \"std\"))] mod model;\n#[cfg(any(test, feature = \"testing\"))] fn shipped() {}",
    );
    let of = |word: &str| source.tokens.iter().find(|t| t.text == word).map(|t| t.test);
    assert_eq!(
        [of("b"), of("before"), of("in_test"), of("shipped")],
        [Some(true), Some(false), Some(true), Some(false)]
    );
    assert_eq!(source.test_files, ["core/src/queue/lane/model.rs", "core/src/queue/lane/model/"]);
    let whole = Source::new("core/src/model.rs", "#![cfg(test)]\nfn anything() {}");
    assert!(whole.tokens.iter().all(|token| token.test));
    let shared = Source::new("runtime/tests/driver.rs", "fn anything() {}");
    assert!(shared.tokens.iter().all(|token| token.test));
}

#[test]
fn a_file_knows_its_module_and_depth() {
    let place = |path: &str| {
        let source = Source::new(path, "");
        (source.core_module().map(str::to_owned), source.core_depth())
    };
    assert_eq!(place("core/src/queue.rs"), (Some("queue".into()), 1));
    assert_eq!(place("core/src/queue/mod.rs"), (Some("queue".into()), 1));
    assert_eq!(place("core/src/queue/lane.rs"), (Some("queue".into()), 2));
    assert_eq!(place("runtime/src/queue.rs").0, None);
}
