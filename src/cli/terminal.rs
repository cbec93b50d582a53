//! What is printed, where, and how: results to stdout, everything else to stderr, colors only for people.

use std::borrow::Cow;
use std::ffi::OsStr;
use std::io::{self, BufRead, IsTerminal, Write};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::base::error::{Fault, plain};

/// How results are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    #[default]
    Table,
    Json,
}

/// Why a verb ends early.
#[derive(Debug)]
pub enum Stop {
    Fault(Fault),
    /// Whoever read stdout has gone, as `head` does: nothing is left to say, and nothing is wrong.
    ReaderGone,
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Stop::Fault(fault)
    }
}

/// Stdout and stderr, and what the user wants on them.
#[derive(Clone, Debug)]
pub struct Terminal {
    output: Output,
    quiet: bool,
    verbose: u8,
    color_out: bool,
    color_err: bool,
    live_out: bool,
    live_err: bool,
}

const RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[36m";
const BOLD: &str = "\x1b[1m";
const RESET: &str = "\x1b[0m";
/// Cursor home, and clear to the end of the screen.
const CLEAR: &str = "\x1b[H\x1b[J";

impl Terminal {
    pub fn new(output: Output, quiet: bool, verbose: u8, no_color: bool) -> Self {
        let live_out = io::stdout().is_terminal();
        let live_err = io::stderr().is_terminal();
        let wanted = !no_color && colors_allowed(|name| std::env::var_os(name));
        Self {
            output,
            quiet,
            verbose,
            color_out: wanted && live_out,
            color_err: wanted && live_err,
            live_out,
            live_err,
        }
    }

    pub fn is_json(&self) -> bool {
        self.output == Output::Json
    }

    pub fn is_quiet(&self) -> bool {
        self.quiet
    }

    /// How often `-v` was given.
    pub fn verbose(&self) -> u8 {
        self.verbose
    }

    /// Whether what goes to stdout may have colors.
    pub fn colored(&self) -> bool {
        self.color_out
    }

    /// Whether what goes to stderr may have colors.
    pub fn colored_err(&self) -> bool {
        self.color_err
    }

    /// Prints a result: JSON if asked for, else the text, which may be empty.
    pub fn show<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<(), Stop> {
        if !self.is_json() {
            return self.print(&text());
        }
        let mut json = serde_json::to_string_pretty(value).map_err(unprintable)?;
        json.push('\n');
        self.print(&json)
    }

    /// Prints one of a series of results: a line of JSON, or a text that takes the place of the one before.
    pub fn redraw<T: Serialize>(&self, value: &T, text: impl FnOnce() -> String) -> Result<(), Stop> {
        if self.is_json() {
            let json = serde_json::to_string(value).map_err(unprintable)?;
            return self.print(&format!("{json}\n"));
        }
        let text = text();
        if self.live_out { self.print(&format!("{CLEAR}{text}")) } else { self.print(&format!("{text}\n")) }
    }

    /// Writes to stdout as it is.
    pub fn print(&self, text: &str) -> Result<(), Stop> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Stop::ReaderGone,
            _ => Stop::Fault(Fault::failed(format!("cannot write to stdout: {}", plain(&error)))),
        })
    }

    /// Says on stderr what was done.
    pub fn note(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.complain(&format!("{}\n", clean(text)));
        }
    }

    /// Says on stderr what to do next.
    pub fn hint(&self, text: &str) {
        if !self.quiet && !self.is_json() {
            self.complain(&format!("{} {}\n", self.paint_err("hint:", CYAN), clean(text)));
        }
    }

    /// Says on stderr what went wrong, in one line, and in another what mends it.
    pub fn fault(&self, fault: &Fault) {
        if self.is_json() {
            // A fault holds strings only, which always become JSON.
            let json = serde_json::to_string(fault).unwrap_or_default();
            return self.complain(&format!("{json}\n"));
        }
        let mut text = format!("{} {}\n", self.paint_err("error:", RED), clean(&fault.message));
        if let Some(hint) = &fault.hint {
            text.push_str(&format!("{} {}\n", self.paint_err("hint:", CYAN), clean(hint)));
        }
        self.complain(&text);
    }

    /// Writes to stderr. If nobody reads it, nobody can be told.
    pub fn complain(&self, text: &str) {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    }

    /// A heading on stdout.
    pub fn bold<'a>(&self, text: &'a str) -> Cow<'a, str> {
        if self.color_out { Cow::Owned(format!("{BOLD}{text}{RESET}")) } else { Cow::Borrowed(text) }
    }

    fn paint_err<'a>(&self, text: &'a str, color: &str) -> Cow<'a, str> {
        if self.color_err { Cow::Owned(format!("{color}{text}{RESET}")) } else { Cow::Borrowed(text) }
    }

    /// A turning wheel with a few words, on a terminal; nothing elsewhere.
    pub fn spinner(&self, text: String) -> ProgressBar {
        let spinner = ProgressBar::with_draw_target(None, self.progress_target());
        spinner.set_message(text);
        spinner.enable_steady_tick(std::time::Duration::from_millis(100));
        spinner
    }

    /// A bar of bytes, on a terminal; nothing elsewhere.
    pub fn byte_bar(&self, total_bytes: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total_bytes), self.progress_target());
        let template = "{bar:40} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar
    }

    fn progress_target(&self) -> ProgressDrawTarget {
        let shown = self.live_err && !self.quiet && !self.is_json();
        if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() }
    }

    /// Asks before something is destroyed; refuses where there is nobody to ask. Reads as `what why`: `deleting volume
    /// pg` `destroys all it holds`.
    pub fn confirm(&self, yes: bool, what: &str, why: &str) -> Result<(), Fault> {
        if yes {
            return Ok(());
        }
        if self.is_json() || !self.live_err || !io::stdin().is_terminal() {
            return Err(Fault::usage(format!("{what} {why}")).hint("add --yes if that is what you want"));
        }
        self.complain(&format!("{} {why}. Go on? [y/N] ", clean(what)));
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).map_err(|error| Fault::failed(plain(&error)))?;
        let agreed = ["y", "yes"].iter().any(|word| answer.trim().eq_ignore_ascii_case(word));
        if agreed { Ok(()) } else { Err(Fault::failed("nothing was changed")) }
    }
}

fn unprintable(error: serde_json::Error) -> Fault {
    Fault::failed(format!("cannot print the answer as JSON: {error}"))
}

/// By the convention of no-color.org, and never on a terminal that cannot.
fn colors_allowed<V: AsRef<OsStr>>(variable: impl Fn(&str) -> Option<V>) -> bool {
    let no_color = variable("NO_COLOR").is_some_and(|value| !value.as_ref().is_empty());
    let dumb = variable("TERM").is_some_and(|value| value.as_ref() == "dumb");
    !no_color && !dumb
}

/// Text from elsewhere without what would steer the terminal.
pub fn clean(text: &str) -> Cow<'_, str> {
    if text.chars().any(char::is_control) {
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>().into()
    } else {
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colors_yield_to_no_color_and_dumb_terminals() {
        let allowed =
            |name: &'static str, value: &'static str| colors_allowed(|asked| (asked == name).then_some(value));
        assert!(allowed("TERM", "xterm"));
        assert!(allowed("NO_COLOR", ""));
        assert!(!allowed("NO_COLOR", "1"));
        assert!(!allowed("TERM", "dumb"));
    }

    #[test]
    fn foreign_text_cannot_steer_the_terminal() {
        assert_eq!(clean("plain"), "plain");
        assert_eq!(clean("a\x1b[2Jb\nc"), "a [2Jb c");
    }
}
