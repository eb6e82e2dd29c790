//! Text for people, with nothing in it that a terminal acts on or hides: names and messages come from
//! records, servers and files of others.

use std::borrow::Cow;

use clap::builder::styling::Style;

use crate::screen::{ADVICE, BAD, GOOD, WARNING};

/// What ends every style.
const RESET: &str = "\u{1b}[0m";

/// One line, with what a terminal acts on or hides escaped, as `\u{1b}`.
pub(crate) fn shown(line: &str) -> Cow<'_, str> {
    escaped(line, |c| c.escape_unicode().to_string())
}

/// The same of a line with words in a style of our own, which stays.
pub(crate) fn shown_styled(line: &str) -> Cow<'_, str> {
    if !line.contains('\u{1b}') {
        return shown(line);
    }
    let own: Vec<String> = [GOOD, WARNING, BAD, ADVICE].iter().map(Style::to_string).collect();
    let (mut out, mut rest) = (String::new(), line);
    while let Some(at) = rest.find('\u{1b}') {
        let (before, escape) = rest.split_at(at);
        out.push_str(&shown(before));
        let known = own.iter().map(String::as_str).chain([RESET]).find(|known| escape.starts_with(known));
        let known = known.unwrap_or("\u{1b}");
        if known.len() > 1 {
            out.push_str(known)
        } else {
            out.push_str(&shown(known))
        }
        rest = escape.get(known.len()..).unwrap_or_default();
    }
    out.push_str(&shown(rest));
    Cow::Owned(out)
}

/// Several lines, each of them as [`shown`].
pub(crate) fn shown_lines(text: &str) -> String {
    text.split('\n').map(shown).collect::<Vec<_>>().join("\n")
}

/// A JSON document with the same escaped, as `\u001b`: it means the same.
pub(crate) fn shown_json(document: &str) -> String {
    let escape = |c: char| {
        let mut units = [0; 2];
        c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")).collect()
    };
    document.split('\n').map(|line| escaped(line, escape)).collect::<Vec<_>>().join("\n")
}

fn escaped(line: &str, escape: impl Fn(char) -> String) -> Cow<'_, str> {
    if !line.contains(is_deceptive) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    for c in line.chars() {
        if is_deceptive(c) { out.push_str(&escape(c)) } else { out.push(c) }
    }
    Cow::Owned(out)
}

/// Whether a character moves the cursor, alters the order of others, or has no width.
fn is_deceptive(c: char) -> bool {
    c.is_control()
        || matches!(
            u32::from(c),
            // The soft hyphen, joiners and fillers.
            0xAD | 0x34F | 0x61C | 0x115F | 0x1160 | 0x17B4 | 0x17B5 | 0x180B..=0x180F | 0x3164 | 0xFFA0
            // Spaces without width, marks of direction, breaks of lines, embeddings, isolates.
            | 0x200B..=0x200F | 0x2028..=0x202E | 0x2060..=0x206F
            // Selectors of variants, the byte order mark, interlinear marks, musical ones, tags.
            | 0xFE00..=0xFE0F | 0xFEFF | 0xFFF9..=0xFFFB | 0x1D173..=0x1D17A | 0xE0000..=0xE0FFF
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_terminal_acts_on_or_hides_is_escaped_and_the_rest_is_as_it_was() {
        let hostile = "a\x1b[2Jb\u{9b}c\u{202e}d\u{200b}e\u{feff}f\ng\u{e0041}\u{7f}";
        let line = shown(hostile);
        assert_eq!(line, "a\\u{1b}[2Jb\\u{9b}c\\u{202e}d\\u{200b}e\\u{feff}f\\u{a}g\\u{e0041}\\u{7f}");
        for plain in ["caf\u{e9}", "\u{65e5}\u{672c}\u{8a9e}", "\u{1f600}", "\u{5d0}\u{5d1}", "a\\u{1b}b"] {
            assert!(matches!(shown(plain), Cow::Borrowed(same) if same == plain));
        }
        assert_eq!(shown_lines("a\nb\rc\n"), "a\nb\\u{d}c\n");
    }

    #[test]
    fn styles_of_our_own_stay_and_other_sequences_do_not() {
        let line = format!("{BAD}wrong{BAD:#} \u{1b}[2Jx\u{1b}");
        assert_eq!(shown_styled(&line), format!("{BAD}wrong{BAD:#} \\u{{1b}}[2Jx\\u{{1b}}"));
        assert_eq!(shown_styled("a\u{202e}b"), "a\\u{202e}b");
    }

    #[test]
    fn a_json_document_means_the_same_and_has_nothing_raw() {
        let value = serde_json::json!({"na\u{202e}me": "a\x1b\u{9b}\u{7f}\u{200b}\u{e0041}\u{1f600}\n"});
        let text = serde_json::to_string_pretty(&value).unwrap();
        let shown = shown_json(&text);
        assert!(!shown.replace('\n', "").contains(is_deceptive), "{shown}");
        assert!(shown.contains("\\u202e") && shown.contains("\\udb40\\udc41"), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), value);
    }
}
