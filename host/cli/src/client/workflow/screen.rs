//! A part of the terminal that is drawn again and again, in place.
//!
//! Movements of the cursor go around the layer that strips colours: without colours there are movements all the same.

use std::io::{self, IsTerminal as _, Write as _};

use crate::failure::Failure;

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
    pub fn draw(&mut self, lines: &[String]) -> Result<(), Failure> {
        let mut raw = io::stdout().lock();
        if self.drawn > 0 {
            // Up to the first line, and clear from there.
            let _ = write!(raw, "\u{1b}[{}A\r\u{1b}[J", self.drawn);
        }
        drop(raw);
        self.drawn = lines.len();
        let mut text = lines.join("\n");
        text.push('\n');
        let mut stdout = anstream::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        written.map_err(crate::output::closed)
    }
}

/// The size of the terminal; 80 × 24 when it does not say.
pub fn size() -> Size {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the request writes one `winsize`, which lives here.
    let known = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &raw mut size) } == 0;
    if known && size.ws_col > 0 && size.ws_row > 0 {
        Size { columns: size.ws_col.into(), rows: size.ws_row.into() }
    } else {
        Size { columns: 80, rows: 24 }
    }
}
