//! Relative links in Markdown files lead somewhere.

use std::path::Path;

use anyhow::Result;

use super::{files, shown};

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for path in files(root, ".md")? {
        let text = std::fs::read_to_string(&path)?;
        for target in local_targets(&text) {
            if !path.parent().unwrap_or(root).join(file_of(target)).exists() {
                violations.push(format!("{}: the link to {target} leads nowhere", shown(root, &path)));
            }
        }
    }
    Ok(violations)
}

/// The targets of links to files here, some of them with a place in the file.
pub(crate) fn local_targets(text: &str) -> impl Iterator<Item = &str> {
    let is_elsewhere = |target: &str| target.contains("://") || target.starts_with("mailto:");
    targets(text).into_iter().filter(move |target| !is_elsewhere(target) && !file_of(target).is_empty())
}

/// The file of a target, without the place in it.
pub(crate) fn file_of(target: &str) -> &str {
    target.split('#').next().unwrap_or_default()
}

/// The targets of inline links, outside code.
fn targets(text: &str) -> Vec<&str> {
    let mut targets = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
        }
        if fenced {
            continue;
        }
        for (number, prose) in line.split('`').enumerate() {
            if number % 2 == 1 {
                continue;
            }
            targets.extend(
                prose.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target),
            );
        }
        // A link whose text is code: [`name`](target).
        targets.extend(
            line.split("`](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(target, _)| target),
        );
    }
    targets.sort_unstable();
    targets.dedup();
    targets
}

#[cfg(test)]
mod tests {
    use super::targets;

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text =
            "See [a](one.md), [b](two.md#x) and [`c`](three.rs).\n`[d](four.md)`\n```\n[e](five.md)\n```\n";
        assert_eq!(targets(text), ["one.md", "three.rs", "two.md#x"]);
    }
}
