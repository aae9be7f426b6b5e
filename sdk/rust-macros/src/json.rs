//! JSON texts as the policy of a description holds them. Written by hand: guests would wait for a library to be compiled.

/// A text, with all escapes that JSON needs.
pub(crate) fn text(text: &str) -> String {
    let mut json = String::with_capacity(text.len() + 2);
    json.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                json.push('\\');
                json.push(c);
            }
            c if c.is_control() => json.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => json.push(c),
        }
    }
    json.push('"');
    json
}

/// A list of texts.
pub(crate) fn list<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| text(item.as_ref())).collect();
    format!("[{}]", items.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_backslashes_and_control_characters_are_escaped() {
        assert_eq!(text("a\"b\\c\n\u{85}é"), "\"a\\\"b\\\\c\\u000a\\u0085é\"");
        assert_eq!(list(["a", "b"]), r#"["a","b"]"#);
        assert_eq!(list::<&str>([]), "[]");
    }
}
