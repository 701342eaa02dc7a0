//! Files of `NAME=value` lines: `CONFIG_FILE` and `KAFKA_PROPERTIES_FILE`.
//!
//! A value is taken as it is written: nothing is expanded (`$`), nothing is an escape (`\`). Programs that read such files disagree
//! about blanks at a value's ends, about ` #`, and about what quotation marks mean; where that could change a secret, the line is
//! refused instead of guessed at. Every secret can be written: in single quotation marks, everything between them counts.
//!
//! 1. Empty lines and lines that begin with `#` say nothing. `export ` before a name says nothing either.
//! 2. One pair of quotation marks around the whole value, `'…'` or `"…"`, is left off; everything between is the value. Between `"`
//!    and `"`, a backslash is refused, because to many programs it is an escape there.
//! 3. A value without them is everything after the first `=`, up to the end of the line. Of a secret, a blank at either end or a `#`
//!    after a blank is refused; of another setting, blanks at the ends and what follows such a `#` are left off.
//!
//! No error repeats a line, nor a name that belongs to no setting: it may be the rest of a secret that was broken across two lines.

use std::path::Path;

/// One line that sets something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// Counted from 1.
    pub(crate) number: usize,
    pub(crate) name: String,
    /// Everything after the `=`.
    raw: Raw,
}

/// A value as it stands in its line. Not printed.
#[derive(Clone, PartialEq, Eq)]
struct Raw(String);

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

const BLANKS: [char; 2] = [' ', '\t'];

/// Reads a file. `is_name` says what a name looks like. The lines that could be read, and what is wrong with the others.
pub(crate) fn read(path: &Path, is_name: fn(&str) -> bool) -> (Vec<Line>, Vec<String>) {
    match std::fs::read(path) {
        Ok(bytes) => parse(&bytes, is_name),
        Err(error) => (Vec::new(), vec![format!("can't be read: {error}")]),
    }
}

fn parse(bytes: &[u8], is_name: fn(&str) -> bool) -> (Vec<Line>, Vec<String>) {
    let bytes = bytes.strip_prefix("\u{feff}".as_bytes()).unwrap_or(bytes);
    let (mut lines, mut errors) = (Vec::<Line>::new(), Vec::new());
    for (number, bytes) in (1..).zip(bytes.split(|byte| *byte == b'\n')) {
        match line(number, bytes.strip_suffix(b"\r").unwrap_or(bytes), is_name) {
            Ok(None) => {}
            Ok(Some(line)) => match lines.iter().find(|other| other.name == line.name) {
                Some(first) => errors.push(format!("line {number}: sets once more what line {} sets", first.number)),
                None => lines.push(line),
            },
            Err(rule) => errors.push(format!("line {number}: {rule}")),
        }
    }
    (lines, errors)
}

fn line(number: usize, bytes: &[u8], is_name: fn(&str) -> bool) -> Result<Option<Line>, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8")?;
    let begin = text.trim_start_matches(BLANKS);
    if begin.is_empty() || begin.starts_with('#') {
        return Ok(None);
    }
    let (name, raw) = begin.split_once('=').ok_or("is not NAME=value")?;
    let name = name.trim_end_matches(BLANKS);
    let name = name.strip_prefix("export").filter(|rest| rest.starts_with(BLANKS)).unwrap_or(name);
    let name = name.trim_start_matches(BLANKS);
    if !is_name(name) {
        return Err("is not NAME=value");
    }
    Ok(Some(Line { number, name: name.to_owned(), raw: Raw(raw.to_owned()) }))
}

impl Line {
    /// Its value; or why there is none, without its text.
    pub(crate) fn value(&self, secret: bool) -> Result<&str, &'static str> {
        let Raw(raw) = &self.raw;
        if raw.chars().any(|c| c.is_control() && c != '\t') {
            return Err("a control character is in the value");
        }
        let text = raw.trim_matches(BLANKS);
        if text.starts_with(['\'', '"']) {
            return quoted(text, secret);
        }
        match (secret, comment(raw)) {
            (true, Some(_)) => {
                Err("a # after a blank may begin a comment; put the whole value in single quotation marks")
            }
            (true, None) if text != raw && !text.is_empty() => {
                Err("a blank begins or ends the value; leave it out, or put the whole value in single quotation marks")
            }
            (_, None) => Ok(text),
            (false, Some(begin)) => Ok(raw[..begin].trim_matches(BLANKS)),
        }
    }
}

fn quoted(text: &str, secret: bool) -> Result<&str, &'static str> {
    let mark = &text[..1];
    let inside = |text: &'_ str| text.len() > 1 && text.ends_with(mark);
    let text = match comment(text) {
        Some(begin) if !secret && !inside(text) => text[..begin].trim_end_matches(BLANKS),
        _ => text,
    };
    if !inside(text) {
        return Err(
            "a quotation mark begins the value and none ends it; put the whole value in marks of the other kind",
        );
    }
    let value = &text[1..text.len() - 1];
    if mark == "\"" && value.contains('\\') {
        return Err("a backslash is between double quotation marks; use single ones");
    }
    Ok(value)
}

/// Where a `#` that follows a blank has that blank.
fn comment(text: &str) -> Option<usize> {
    let is_comment = |(at, _): &(usize, char)| text[at + 1..].starts_with('#');
    text.char_indices().filter(|(_, c)| BLANKS.contains(c)).find(is_comment).map(|(at, _)| at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_name(name: &str) -> bool {
        !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte == b'_')
    }

    fn of(text: &str) -> (Vec<Line>, Vec<String>) {
        parse(text.as_bytes(), is_name)
    }

    /// The one value of a line, as a secret and as another setting.
    fn values(text: &str) -> [Result<String, &'static str>; 2] {
        let (lines, errors) = of(text);
        assert_eq!((lines.len(), errors.len()), (1, 0), "{text}: {errors:?}");
        [true, false].map(|secret| lines[0].value(secret).map(str::to_owned))
    }

    #[test]
    fn a_value_is_taken_as_it_is_written() {
        for value in [
            "simple", "$x", "a$HOME", "${HOME}b", "p$$w", "a b c", "a#b", "#a", "a=b=c", "a\\b", "\\n", "a\"b", "it's",
            "a,b", "ü€", "a\tb", "a'", "a\"", "%24", "`id`", "$(id)", "a\\", "!x",
        ] {
            for line in [format!("NAME={value}"), format!("NAME={value}\r\n"), format!("export NAME ={value}\n")] {
                assert_eq!(values(&line), [Ok(value.to_owned()), Ok(value.to_owned())], "{line}");
            }
            assert_eq!(values(&format!("NAME='{value}'"))[0], Ok(value.to_owned()));
        }
    }

    #[test]
    fn everything_between_quotation_marks_counts() {
        for value in [" a ", "a # b", "a'b", "'", "'a'", "\"a\"", "\\", "", "$x"] {
            let expected = Ok(value.to_owned());
            assert_eq!(values(&format!("NAME='{value}'")), [expected.clone(), expected.clone()]);
            assert_eq!(values(&format!("NAME = '{value}' ")), [expected.clone(), expected.clone()]);
            if !value.contains('\\') {
                assert_eq!(values(&format!("NAME=\"{value}\"")), [expected.clone(), expected]);
            }
        }
        assert_eq!(values("NAME='a b' # why")[1].as_deref(), Ok("a b"));
    }

    #[test]
    fn what_could_change_a_secret_is_refused_and_elsewhere_it_is_read_as_ever() {
        for (line, other) in [
            ("NAME= a", Ok("a")),
            ("NAME=a\t", Ok("a")),
            ("NAME = a", Ok("a")),
            ("NAME=a # b", Ok("a")),
            ("NAME= # b", Ok("")),
            ("NAME='a' # b", Ok("a")),
            ("NAME='a", Err(())),
            ("NAME=\"", Err(())),
            ("NAME=\"a\\nb\"", Err(())),
            ("NAME=a\0b", Err(())),
        ] {
            let [secret, plain] = values(line);
            assert!(secret.is_err(), "{line}");
            assert_eq!(plain.as_deref().map_err(|_| ()), other, "{line}");
        }
        assert_eq!(values("NAME=  "), [Ok(String::new()), Ok(String::new())]);
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        let (lines, errors) = of("\u{feff}# why\n\n  A=1\nCANARY\nB C=2\nlower=3\n=4\n\nD=5\nA=6\nexport=7\n");
        assert_eq!(lines.iter().map(|line| (line.number, &*line.name)).collect::<Vec<_>>(), [(3, "A"), (9, "D")]);
        let wrong: Vec<_> = errors.iter().filter_map(|error| error.split_once(':').map(|(line, _)| line)).collect();
        assert_eq!(wrong, ["line 4", "line 5", "line 6", "line 7", "line 10", "line 11"]);
        assert_eq!(errors[4], "line 10: sets once more what line 3 sets");
        assert!(!errors.concat().contains("CANARY") && !format!("{lines:?}").contains('5'));
        assert_eq!(parse(b"A=\xff", is_name).1, ["line 1: is not UTF-8"]);
    }
}
