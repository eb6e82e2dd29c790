//! What each vector is for, as tables for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::records_handed::keys;
use crate::registry::records;
use crate::{Outcome, Vector};

/// `VECTORS.md`.
pub(crate) fn purposes(vectors: &[Vector]) -> String {
    let mut text = "# What each vector is for\n\nMade from `manifest.json`, by the section of the specification that decides.\n".to_owned();
    let mut patches: BTreeMap<Vec<u64>, (&str, Vec<&Vector>)> = BTreeMap::new();
    for vector in vectors {
        patches.entry(order(vector.section)).or_insert((vector.section, Vec::new())).1.push(vector);
    }
    text += "\n## Patches\n";
    for (section, vectors) in patches.values() {
        text +=
            &format!("\n### {}\n\n| id | base | due | what it shows |\n|---|---|---|---|\n", title(section));
        for vector in vectors {
            let due = match &vector.outcome {
                Outcome::Target(target) => format!("`{target}`"),
                Outcome::Refused { code, offset } => format!("{code} {offset}"),
            };
            let flags = vector.flags.iter().fold(String::new(), |flags, flag| format!("{flags} ({flag})"));
            let base = vector.base.map_or_else(String::new, |base| format!("`{base}`"));
            row(&mut text, &[&vector.id, &base, &due, &format!("{}{flags}", vector.comment)]);
        }
    }
    text +=
        "\n## Records of streams\n\n| id | kind | section | due | what it shows |\n|---|---|---|---|---|\n";
    for record in records() {
        let due = if record.valid { "taken" } else { "refused" };
        row(&mut text, &[&record.id, record.kind, record.section, due, &record.comment]);
    }
    text += "\n## Keys that count\n\n| id | due | what it shows |\n|---|---|---|\n";
    for keys in keys() {
        let due = keys.counts.map_or_else(|| "refused".to_owned(), |counts| format!("{} keys", counts.len()));
        row(&mut text, &[&keys.id, &due, keys.comment]);
    }
    text
}

fn row(text: &mut String, cells: &[&str]) {
    let escaped: Vec<String> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    writeln!(text, "| {} |", escaped.join(" | ")).expect("memory");
}

/// Sections in the order of their numbers, the encodings last.
fn order(section: &str) -> Vec<u64> {
    match section.strip_prefix("encodings/") {
        Some(encoding) => vec![u64::MAX, encoding.bytes().map(u64::from).sum()],
        None => section.split('.').map(|number| number.parse().expect("a number")).collect(),
    }
}

fn title(section: &str) -> String {
    match section.strip_prefix("encodings/") {
        Some(encoding) => format!("`{encoding}`"),
        None => format!("Section {section}"),
    }
}
