//! Whether a text shows anything.
//!
//! A message that shows an empty bubble, and a name that cannot be seen, count as empty. Shows nothing: white space; what Unicode's
//! property [`Default_Ignorable_Code_Point`] names (zero-width characters, marks of direction, Hangul fillers, variation selectors, tags);
//! NUL, which HTML drops; and `BLANKS`. Other control characters are shown as a glyph (CSS Text Level 3, section 3), and count as visible.
//!
//! See `docs/decisions/visible-content.md`.
//!
//! [`Default_Ignorable_Code_Point`]: https://www.unicode.org/reports/tr44/#Default_Ignorable_Code_Point

use std::ops::RangeInclusive;

use icu_properties::CodePointSetData;
use icu_properties::props::DefaultIgnorableCodePoint;

/// Characters without ink that no property covers, by their names in the Unicode Character Database.
const BLANKS: [RangeInclusive<char>; 5] = [
    '\u{2800}'..='\u{2800}',   // BRAILLE PATTERN BLANK
    '\u{fff9}'..='\u{fffb}',   // INTERLINEAR ANNOTATION ANCHOR, SEPARATOR, TERMINATOR
    '\u{13441}'..='\u{13442}', // EGYPTIAN HIEROGLYPH FULL BLANK, HALF BLANK
    '\u{16fe4}'..='\u{16fe4}', // KHITAN SMALL SCRIPT FILLER
    '\u{1d159}'..='\u{1d159}', // MUSICAL SYMBOL NULL NOTEHEAD
];

/// Whether at least one character of the text is visible.
pub fn is_visible(text: &str) -> bool {
    text.chars().any(|c| !shows_nothing(c))
}

fn shows_nothing(c: char) -> bool {
    // What almost every text begins with.
    !c.is_ascii_graphic()
        && (c == '\0'
            || c.is_whitespace()
            || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(c)
            || BLANKS.iter().any(|range| range.contains(&c)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shows_nothing_is_not_visible() {
        for (name, c) in [
            ("space", ' '),
            ("tab", '\t'),
            ("line feed", '\n'),
            ("next line", '\u{85}'),
            ("no-break space", '\u{a0}'),
            ("em space", '\u{2003}'),
            ("line separator", '\u{2028}'),
            ("ideographic space", '\u{3000}'),
            ("null", '\u{0}'),
            ("soft hyphen", '\u{ad}'),
            ("combining grapheme joiner", '\u{34f}'),
            ("Arabic letter mark", '\u{61c}'),
            ("Hangul choseong filler", '\u{115f}'),
            ("Hangul jungseong filler", '\u{1160}'),
            ("Mongolian vowel separator", '\u{180e}'),
            ("zero width space", '\u{200b}'),
            ("zero width joiner", '\u{200d}'),
            ("right-to-left mark", '\u{200f}'),
            ("right-to-left override", '\u{202e}'),
            ("word joiner", '\u{2060}'),
            ("reserved, default ignorable", '\u{2065}'),
            ("first strong isolate", '\u{2068}'),
            ("Braille blank", '\u{2800}'),
            ("Hangul filler", '\u{3164}'),
            ("variation selector 16", '\u{fe0f}'),
            ("byte order mark", '\u{feff}'),
            ("halfwidth Hangul filler", '\u{ffa0}'),
            ("annotation anchor", '\u{fff9}'),
            ("Egyptian half blank", '\u{13442}'),
            ("Khitan filler", '\u{16fe4}'),
            ("null notehead", '\u{1d159}'),
            ("musical begin beam", '\u{1d173}'),
            ("tag space", '\u{e0020}'),
            ("cancel tag", '\u{e007f}'),
            ("variation selector 256", '\u{e01ef}'),
        ] {
            assert!(!is_visible(&c.to_string()), "{name}");
            assert!(!is_visible(&format!(" {c}{c}\u{200b}\n")), "{name}");
            assert!(is_visible(&format!("{c}x{c}")), "{name}");
        }
        assert!(!is_visible(""));
    }

    #[test]
    fn what_shows_something_is_visible() {
        for text in [
            "x",
            ".",
            "é",
            "e\u{301}",
            "你",
            "ㄱ",
            "⠁",
            "👍🏽",
            "❤\u{fe0f}",
            "👨\u{200d}👩",
            "\u{301}",
            "\u{1}",
            "\u{7f}",
            "\u{fffd}",
        ] {
            assert!(is_visible(text), "{text:?}");
        }
    }
}
