//! Random contents of messages.

use fastrand::Rng;

/// Mostly letters and digits; one in ten of characters that JSON, UTF-8 or a terminal could mishandle.
pub(super) fn content(rng: &mut Rng, length: usize) -> String {
    const ODD: &[char] = &[
        '\0',
        '\u{1}',
        '\u{8}',
        '\t',
        '\n',
        '\r',
        '\u{1b}',
        '"',
        '\\',
        '/',
        '<',
        '&',
        '\u{7f}',
        '\u{85}',
        '\u{a0}',
        'é',
        'ß',
        '\u{301}',
        '\u{200b}',
        '\u{200d}',
        '\u{2028}',
        '\u{202e}',
        '中',
        '\u{d7ff}',
        '\u{e000}',
        '\u{feff}',
        '\u{fffd}',
        '\u{ffff}',
        '👍',
        '🏽',
        '\u{10ffff}',
    ];
    if rng.u8(..10) > 0 {
        return std::iter::repeat_with(|| rng.alphanumeric()).take(length).collect();
    }
    // Begins with a visible character, or it would be refused as empty.
    let odd = std::iter::repeat_with(|| ODD[rng.usize(..ODD.len())]);
    std::iter::once('x').chain(odd).take(length).collect()
}
