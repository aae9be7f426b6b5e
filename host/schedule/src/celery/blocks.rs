//! Under which statements of Python a token is: what is under an `if` may count or not.

use super::{literal::Source, token::Kind};

/// A word that begins a block, and its line.
pub(super) type Word<'a> = (&'a str, u32);

/// A statement.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place<'a> {
    /// Its first token.
    pub start: usize,
    /// It begins with a word that opens a block; a statement may follow behind its `:`.
    pub opens: bool,
    /// The line of the class or function that it is in; 0: in none.
    pub scope: u32,
    /// It is under a `def` or `with`, which is run or not as a whole.
    pub called: Option<Word<'a>>,
    /// It is under an `if`, a loop or the like: it may count or not.
    pub maybe: Option<Word<'a>>,
}

/// All statements, in the order of the text.
pub(super) struct Blocks<'a>(Vec<Place<'a>>);

impl<'a> Blocks<'a> {
    pub fn new(source: &Source<'a>) -> Self {
        let mut all: Vec<Place<'a>> = Vec::new();
        // Blocks that are open, with their indentation.
        let mut open: Vec<(usize, Place<'a>)> = Vec::new();
        let mut begins = true;
        for (at, token) in source.tokens.iter().enumerate() {
            if begins {
                let indent = source.indent(token.start);
                while open.last().is_some_and(|(outer, _)| *outer >= indent) {
                    open.pop();
                }
                let outer = open.last().map_or_else(Place::default, |(_, place)| *place);
                let place = opened(Place { start: at, opens: false, ..outer }, token.line, &token.kind);
                if place.opens {
                    open.push((indent, place));
                }
                all.push(place);
            } else if token.kind == Kind::Mark(";") {
                all.extend(all.last().map(|place| Place { start: at + 1, ..*place }));
            }
            begins = token.kind == Kind::Newline;
        }
        Self(all)
    }

    /// The statement of a token.
    pub fn of(&self, at: usize) -> Place<'a> {
        let after = self.0.partition_point(|place| place.start <= at);
        after.checked_sub(1).and_then(|last| self.0.get(last)).copied().unwrap_or_default()
    }
}

/// The statement with the block that it opens itself.
fn opened<'a>(place: Place<'a>, line: u32, first: &Kind<'a>) -> Place<'a> {
    let Kind::Name(word) = *first else { return place };
    let (here, opens) = (Some((word, line)), true);
    match word {
        "class" => Place { opens, scope: line, ..place },
        "def" | "async" => Place { opens, scope: line, called: here, ..place },
        "with" => Place { opens, called: here, ..place },
        "if" | "elif" | "else" | "for" | "while" | "try" | "except" | "finally" | "match" | "case" => {
            Place { opens, maybe: here, ..place }
        }
        _ => place,
    }
}
