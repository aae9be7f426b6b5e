//! Writes JSON text piece by piece, and remembers the first thing that could not be written.

use super::Json;

#[derive(Default)]
pub(super) struct Text {
    text: String,
    problem: Option<String>,
}

impl Text {
    pub(super) fn json(&mut self, json: &Json) {
        match json.text() {
            Ok(text) => self.text.push_str(text),
            Err(problem) => {
                // Keeps the text well-formed for whoever prints it.
                self.text.push_str("null");
                self.problem.get_or_insert_with(|| problem.to_owned());
            }
        }
    }

    pub(super) fn list<T>(&mut self, items: &[T], mut write: impl FnMut(&mut Self, &T)) {
        self.text.push('[');
        for (at, item) in items.iter().enumerate() {
            if at > 0 {
                self.text.push(',');
            }
            write(self, item);
        }
        self.text.push(']');
    }

    pub(super) fn object(&mut self, fields: impl FnOnce(&mut Fields<'_>)) {
        self.text.push('{');
        fields(&mut Fields { text: self, first: true });
        self.text.push('}');
    }

    pub(super) fn finish(self) -> Result<String, String> {
        match self.problem {
            None => Ok(self.text),
            Some(problem) => Err(problem),
        }
    }
}

/// The fields of one object.
pub(super) struct Fields<'a> {
    text: &'a mut Text,
    first: bool,
}

impl Fields<'_> {
    pub(super) fn field(&mut self, name: &str, write: impl FnOnce(&mut Text)) {
        if !std::mem::take(&mut self.first) {
            self.text.text.push(',');
        }
        self.text.json(&Json::of(name));
        self.text.text.push(':');
        write(self.text);
    }

    pub(super) fn value(&mut self, name: &str, value: &Json) {
        self.field(name, |text| text.json(value));
    }

    /// Nothing if it is empty.
    pub(super) fn list<T>(&mut self, name: &str, items: &[T], write: impl FnMut(&mut Text, &T)) {
        if !items.is_empty() {
            self.field(name, |text| text.list(items, write));
        }
    }
}
