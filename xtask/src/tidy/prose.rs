//! Prose in Markdown is wrapped, so that a change shows in the lines that it alters.

use std::path::Path;

use anyhow::Result;

use super::{files, shown};

const MOST_WIDTH: usize = 120;

/// `spec/` has a sentence a line instead, and what is generated has lines of its own.
const ELSEWHERE: &[&str] = &["spec/", "tests/"];

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for path in files(root, ".md")? {
        let name = shown(root, &path);
        if !ELSEWHERE.iter().any(|directory| name.starts_with(directory)) {
            let text = std::fs::read_to_string(&path)?;
            violations.extend(
                wide(&text)
                    .iter()
                    .map(|line| format!("{name}:{line}: more than {MOST_WIDTH} characters of prose")),
            );
        }
    }
    Ok(violations)
}

/// The numbers of the lines that are too wide. Tables, code and lines with links are left out.
fn wide(text: &str) -> Vec<usize> {
    let mut fenced = false;
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        fenced ^= line.trim_start().starts_with("```");
        let prose = !fenced && !line.starts_with('|') && !line.contains("](");
        if prose && line.chars().count() > MOST_WIDTH {
            found.push(number + 1);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::wide;

    #[test]
    fn wide_prose_is_found_and_tables_code_and_links_are_not() {
        let long = "x".repeat(121);
        let text = format!("{long}\n| {long} |\n```\n{long}\n```\n[a]({long})\nshort\n* {long}\n");
        assert_eq!(wide(&text), [1, 8]);
    }
}
