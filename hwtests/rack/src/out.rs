//! The door to standard output.

use std::{
    fmt,
    io::{self, Write},
};

/// Prints a line. Whoever has read enough (`rack console n1 | head`) ends the program.
pub(crate) fn line(text: impl fmt::Display) {
    let mut out = io::stdout().lock();
    let printed = writeln!(out, "{text}").and_then(|()| out.flush());
    if printed.is_err_and(|error| error.kind() == io::ErrorKind::BrokenPipe) {
        std::process::exit(0);
    }
}
