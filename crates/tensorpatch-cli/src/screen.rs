//! What is known of the terminal: how wide it is, and whether it shows colours.

use std::fmt::Display;
use std::io;

use clap::builder::styling::{AnsiColor, Style};

/// The characters of a line of standard output: what `COLUMNS` says, else what the terminal has, else as many
/// as there are.
pub(crate) fn width() -> usize {
    let stated = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
    let terminal = || rustix::termios::tcgetwinsize(io::stdout()).ok().map(|size| usize::from(size.ws_col));
    stated.or_else(terminal).filter(|columns| *columns > 0).unwrap_or(usize::MAX)
}

/// How words are set apart. What is written goes through [`anstream`], which takes the colours out where they
/// are not wanted: without a terminal and with `NO_COLOR`, unless `CLICOLOR_FORCE` asks for them.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Worth a look.
pub(crate) const WARNING: Style = AnsiColor::Yellow.on_default().bold();
/// Wrong.
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
/// What to do.
pub(crate) const ADVICE: Style = AnsiColor::Cyan.on_default().bold();

/// A word in a style.
pub(crate) fn styled(style: Style, word: impl Display) -> String {
    format!("{style}{word}{style:#}")
}
