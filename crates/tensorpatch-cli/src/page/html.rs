//! Text and tables in HTML.

use std::fmt::Write as _;

/// Text as HTML shows it, also within the quotes of an attribute.
pub(super) fn text(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // They could turn the direction of what follows, or are no characters of HTML.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            c if c.is_control() => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A figure with a heading, a line that says what it shows, and what it shows.
pub(super) fn figure(id: &str, heading: &str, about: &str, body: &str) -> String {
    format!(
        "<section aria-labelledby=\"{id}-heading\">\n<h2 id=\"{id}-heading\">{heading}</h2>\n\
         <p class=\"muted\">{about}</p>\n{body}</section>\n"
    )
}

/// A table that can be opened below a figure: its numbers for those who cannot see it.
pub(super) fn numbers(id: &str, headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    format!(
        "<details>\n<summary>The numbers</summary>\n<div class=\"scroll\" tabindex=\"0\" role=\"region\" \
         aria-labelledby=\"{id}-heading\">\n{}</div>\n</details>\n",
        table(headings, rows)
    )
}

/// A table of cells that are HTML already; columns of numbers are aligned to the right.
pub(super) fn table(headings: &[&str], rows: impl Iterator<Item = Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.collect();
    let is_number = |cell: &String| cell.starts_with(|c: char| c.is_ascii_digit() || c == '–');
    let class = |column: usize| match rows.iter().filter_map(|row| row.get(column)).all(is_number) {
        true => " class=\"number\"",
        false => "",
    };
    let classes: Vec<&str> = (0..headings.len()).map(class).collect();
    let mut out = "<table>\n<thead><tr>".to_owned();
    for (heading, class) in headings.iter().zip(&classes) {
        let _ = write!(out, "<th scope=\"col\"{class}>{heading}</th>");
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &rows {
        out.push_str("<tr>");
        for (cell, class) in row.iter().zip(&classes) {
            let _ = write!(out, "<td{class}>{cell}</td>");
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody>\n</table>\n");
    out
}

#[cfg(test)]
mod tests {
    use super::text;

    #[test]
    fn text_cannot_end_an_element_or_an_attribute_and_keeps_its_direction() {
        assert_eq!(text("<b> & \"x\" 'y'"), "&lt;b&gt; &amp; &quot;x&quot; &#39;y&#39;");
        assert_eq!(text("a\u{202e}b\u{1b}[2J"), "a\u{fffd}b\u{fffd}[2J");
    }
}
