//! Rules about single Rust files.

use std::path::Path;

use anyhow::{Context, Result};

use super::{files, shown};

/// What may contain unsafe code: the kernels, memory maps, and the bytes that Python objects own.
const UNSAFE_ALLOWED: &[&str] = &[
    "crates/tensorpatch-codec/",
    "crates/tensorpatch-checkpoint/",
    "crates/tensorpatch-python/src/dlpack.rs",
];

const MOST_LINES: usize = 600;

/// A longer file says why in a comment that begins so.
const LONG: &str = "// Long because ";

/// The width of comments: that of the code, as in `rustfmt.toml`.
const MOST_WIDTH: usize = 110;

pub(crate) fn check(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for path in files(root, ".rs")? {
        let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        violations.extend(violations_of(&shown(root, &path), &text));
    }
    Ok(violations)
}

fn violations_of(path: &str, text: &str) -> Vec<String> {
    let mut violations = Vec::new();
    // A fuzz target starts with the attribute that removes its main function.
    let start = text.strip_prefix("#![no_main]\n").unwrap_or(text).trim_start();
    if !start.starts_with("//!") {
        violations.push(format!("{path}: a module begins with //! and what it is for"));
    }
    let lines = text.lines().count();
    if lines > MOST_LINES && !text.lines().any(|line| line.trim_start().starts_with(LONG)) {
        violations.push(format!(
            "{path}: {lines} lines, more than {MOST_LINES}; split it, or say why in a comment \"{LONG}...\""
        ));
    }
    for (number, line) in text.lines().enumerate() {
        if is_wide_comment(line) {
            let number = number + 1;
            violations.push(format!("{path}:{number}: a comment of more than {MOST_WIDTH} characters"));
        }
    }
    if !UNSAFE_ALLOWED.iter().any(|allowed| path.starts_with(allowed)) {
        for (number, line) in text.lines().enumerate() {
            if has_unsafe(line) {
                violations.push(format!("{path}:{}: unsafe code is not for this crate", number + 1));
            }
        }
    }
    violations
}

/// Whether a line is a comment that is too wide. The rows of a table cannot be wrapped.
fn is_wide_comment(line: &str) -> bool {
    let comment = line.trim_start().strip_prefix("//");
    let is_row = |text: &str| text.trim_start_matches(['/', '!', ' ']).starts_with('|');
    comment.is_some_and(|text| !is_row(text)) && line.chars().count() > MOST_WIDTH
}

/// Whether a line of code uses the keyword. Comments and one-line strings are left out.
fn has_unsafe(line: &str) -> bool {
    let mut code = String::new();
    let line = line.replace("\\\"", "");
    for (number, part) in line.split('"').enumerate() {
        if number % 2 == 1 {
            continue;
        }
        match part.split_once("//") {
            Some((before, _)) => {
                code.push_str(before);
                break;
            }
            None => code.push_str(part),
        }
    }
    code.split(|c: char| !c.is_alphanumeric() && c != '_').any(|word| word == "unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_without_a_description_is_a_violation() {
        assert_eq!(violations_of("crates/a/src/lib.rs", "//! Words.\n"), Vec::<String>::new());
        assert_eq!(violations_of("fuzz/a.rs", "#![no_main]\n//! Words.\n"), Vec::<String>::new());
        assert_eq!(violations_of("crates/a/src/lib.rs", "use x;\n").len(), 1);
        assert_eq!(violations_of("crates/a/src/lib.rs", "").len(), 1);
    }

    #[test]
    fn a_long_file_needs_a_reason() {
        let long = format!("//! Words.\n{}", "fn f() {}\n".repeat(MOST_LINES));
        assert_eq!(violations_of("crates/a/src/lib.rs", &long).len(), 1);
        let reasoned = format!("{long}{LONG}it is a table.\n");
        assert_eq!(violations_of("crates/a/src/lib.rs", &reasoned), Vec::<String>::new());
    }

    #[test]
    fn a_comment_wider_than_the_code_is_a_violation() {
        let of = |line: &str| violations_of("crates/a/src/lib.rs", &format!("//! Words.\n{line}\n")).len();
        let words = "x".repeat(MOST_WIDTH);
        assert_eq!(of(&format!("    /// {words}")), 1);
        assert_eq!(of(&format!("// {}", &words[3..])), 0);
        assert_eq!(of(&format!("/// | {words} |")), 0);
        assert_eq!(of(&format!("let a = \"{words}\";")), 0);
    }

    #[test]
    fn unsafe_code_is_found_where_it_is_not_allowed() {
        let text = "//! Words.\nunsafe { f() }\n";
        assert_eq!(violations_of("crates/tensorpatch-cli/src/a.rs", text).len(), 1);
        assert_eq!(violations_of("crates/tensorpatch-codec/src/a.rs", text), Vec::<String>::new());
        for harmless in
            ["// unsafe", "let a = \"unsafe\";", "#![forbid(unsafe_code)]", "f(\"a // b\") // unsafe"]
        {
            assert!(!has_unsafe(harmless), "{harmless}");
        }
        assert!(has_unsafe("let a = \"x\"; unsafe { b() } // \"y\""));
    }
}
