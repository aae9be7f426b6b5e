//! A part of the terminal that is drawn again and again, in place.
//!
//! Movements of the cursor go around the layer that strips colours: without colours there are movements all the same.

use std::io::{self, IsTerminal as _, Write as _};

use console::Term;

use crate::{Result, output::closed};

/// How much a terminal shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub columns: usize,
    pub rows: usize,
}

/// The lines that were drawn last, to be drawn over.
#[derive(Debug, Default)]
pub struct Screen {
    drawn: usize,
}

/// Whether stdout is a terminal whose cursor can be moved.
pub fn can_redraw() -> bool {
    io::stdout().is_terminal() && std::env::var_os("TERM").is_some_and(|term| term != "dumb")
}

impl Screen {
    /// Draws these lines over the ones before. They must fit: see `size`.
    pub fn draw(&mut self, lines: &[String]) -> Result {
        if self.drawn > 0 {
            // Up to the first line, and clear from there.
            let _ = write!(io::stdout(), "\u{1b}[{}A\r\u{1b}[J", self.drawn);
        }
        self.drawn = lines.len();
        let mut stdout = anstream::stdout().lock();
        writeln!(stdout, "{}", lines.join("\n")).and_then(|()| stdout.flush()).map_err(closed)
    }
}

/// The size of the terminal; 80 × 24 when it does not say.
pub fn size() -> Size {
    let (rows, columns) = Term::stdout().size();
    Size { columns: columns.into(), rows: rows.into() }
}
