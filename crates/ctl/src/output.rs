//! What a command prints: tables for people, or one JSON object a line for programs; progress; and questions.

use std::fmt::Display;
use std::io::{IsTerminal as _, Write};
use std::time::{Duration, Instant};

use anyhow::Result;
use comfy_table::{Table, presets};
use serde::Serialize;

use crate::exit::Usage;

/// Where a command prints to.
pub struct Output<'w> {
    out: &'w mut dyn Write,
    json: bool,
}

impl<'w> Output<'w> {
    /// Tables, or JSON lines.
    pub fn new(out: &'w mut dyn Write, json: bool) -> Self {
        Self { out, json }
    }

    /// Whether programs read it.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Things of one kind: a table, or a line each.
    pub fn rows<T: Serialize, const N: usize>(
        &mut self,
        header: [&str; N],
        items: &[T],
        row: impl Fn(&T) -> [String; N],
    ) -> Result<()> {
        if self.json {
            return items.iter().try_for_each(|item| self.object(item));
        }
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(header.map(str::to_uppercase));
        table.add_rows(items.iter().map(row));
        if let Some(first) = table.column_mut(0) {
            first.set_padding((0, 1));
        }
        for line in table.lines() {
            writeln!(self.out, "{}", line.trim_end())?;
        }
        Ok(())
    }

    /// One thing, for programs and people alike.
    pub fn object(&mut self, item: &impl Serialize) -> Result<()> {
        serde_json::to_writer(&mut *self.out, item)?;
        Ok(writeln!(self.out)?)
    }

    /// One thing: a line of JSON, or a sentence.
    pub fn say(&mut self, item: &impl Serialize, sentence: impl Display) -> Result<()> {
        if self.json { self.object(item) } else { Ok(writeln!(self.out, "{sentence}")?) }
    }

    /// A sentence that only people need.
    pub fn note(&mut self, sentence: impl Display) -> Result<()> {
        if self.json { Ok(()) } else { Ok(writeln!(self.out, "{sentence}")?) }
    }
}

/// A number of things, as `1 key`, `2 keys`.
pub fn count(number: u64, one: &str, more: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { more })
}

/// Words that somebody typed, as they may be repeated on a terminal: what is not printable is escaped, and what is long is cut.
pub fn legible(text: &str) -> String {
    const LONGEST: usize = 120;
    let mut shown: String = text.escape_debug().take(LONGEST).collect();
    if text.escape_debug().nth(LONGEST).is_some() {
        shown.push('…');
    }
    shown
}

/// Asks before something that can't be undone: a person at a terminal; anybody else must have said `--yes`.
pub fn confirm(question: &str, yes: bool) -> Result<()> {
    if yes {
        return Ok(());
    }
    if !(std::io::stdin().is_terminal() && std::io::stderr().is_terminal()) {
        return Err(Usage(format!("{question} Say --yes, as nobody can be asked here")).into());
    }
    eprint!("{question} [y/N] ");
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    match answer.trim() {
        "y" | "Y" | "yes" => Ok(()),
        _ => Err(Usage("nothing was done".into()).into()),
    }
}

/// Tells a person at a terminal how far a long run is.
#[derive(Debug)]
pub struct Progress {
    what: &'static str,
    done: u64,
    all: u64,
    shown: Option<Instant>,
    terminal: bool,
}

impl Progress {
    /// `all` may be 0 where it is not known.
    pub fn new(what: &'static str, all: u64) -> Self {
        Self { what, done: 0, all, shown: None, terminal: std::io::stderr().is_terminal() }
    }

    /// So many more.
    pub fn add(&mut self, count: u64) {
        self.done += count;
        let due = self.shown.is_none_or(|shown| shown.elapsed() > Duration::from_millis(200));
        if self.terminal && due {
            let all = if self.all > 0 { format!(" of {}", self.all) } else { String::new() };
            // Whatever is printed next begins where this does.
            eprint!("\x1b[K{} {}{all}\r", self.what, self.done);
            self.shown = Some(Instant::now());
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if self.shown.is_some() {
            eprint!("\x1b[K");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_typed_can_neither_move_the_cursor_nor_fill_the_screen() {
        assert_eq!(legible("chat:v1:profile:user:{älice}"), "chat:v1:profile:user:{älice}");
        assert_eq!(legible("a\nb\u{1b}[2J\u{202e}c"), "a\\nb\\u{1b}[2J\\u{202e}c");
        let cut = legible(&"\u{1b}".repeat(10_000));
        assert!(cut.chars().count() == 121 && cut.ends_with('…'), "{cut}");
        assert_eq!((count(1, "key", "keys"), count(0, "key", "keys")), ("1 key".into(), "0 keys".into()));
    }
}
