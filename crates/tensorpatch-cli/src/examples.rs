//! An example for each command, at the end of its help. A test holds that each of them parses.

use clap::Command;

/// The examples of each command.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("diff", &["tensorpatch diff step-5 step-6 -o step-6.tpatch"]),
    (
        "apply",
        &[
            "tensorpatch apply step-5 step-6.tpatch -o rebuilt",
            "tensorpatch apply step-5 step-6.tpatch --in-place",
        ],
    ),
    ("inspect", &["tensorpatch inspect step-6.tpatch --base step-5", "tensorpatch inspect step-5 step-6"]),
    ("digest", &["tensorpatch digest step-6"]),
    (
        "publish",
        &[
            "tensorpatch publish step-6 --to /shared/run-7 --label step-6",
            "tensorpatch publish step-6 --to s3://bucket/run-7 --sign-key trainer.key",
        ],
    ),
    (
        "pull",
        &["tensorpatch pull /shared/run-7 replica", "tensorpatch pull /shared/run-7 replica --version 12"],
    ),
    ("verify", &["tensorpatch verify replica"]),
    (
        "follow",
        &[
            "tensorpatch follow s3://bucket/run-7 replica --lease engine-1 --metrics 9464",
            "tensorpatch follow /shared/run-7 replica --exec 'curl -X POST http://localhost:8000/reload || true'",
        ],
    ),
    ("status", &["tensorpatch status /shared/run-7 replica --max-behind 3"]),
    ("log", &["tensorpatch log /shared/run-7 -n 20"]),
    ("doctor", &["tensorpatch doctor s3://bucket/run-7 --write"]),
    ("report", &["tensorpatch report /shared/run-7 -o report.html --steps 16"]),
    ("fsck", &["tensorpatch fsck /shared/run-7"]),
    ("fold", &["tensorpatch fold /shared/run-7 --from 10 --to 90"]),
    ("anchor", &["tensorpatch anchor /shared/run-7", "tensorpatch anchor /shared/run-7 --base step-120"]),
    ("rollback", &["tensorpatch rollback /shared/run-7 --sign-key trainer.key"]),
    ("gc", &["tensorpatch gc /shared/run-7 --keep 100", "tensorpatch gc /shared/run-7 --keep 100 --delete"]),
    ("mirror", &["tensorpatch mirror s3://bucket/run-7 /backup/run-7"]),
    ("convert", &["tensorpatch convert updates/weight_v000007 --base v6 --to patch -o v7.tpatch"]),
    ("keygen", &["tensorpatch keygen trainer.key"]),
    ("key", &["tensorpatch key show trainer.key"]),
    ("rotate", &["tensorpatch rotate /shared/run-7 --old-key-file trainer.key --new-key-file next.key"]),
    ("demo", &["tensorpatch demo"]),
    ("completions", &["tensorpatch completions bash"]),
    ("man", &["tensorpatch man /usr/local/share/man/man1"]),
];

/// Columns within which an example can be copied as it stands, where the terminal is wider.
const COLUMNS: usize = 78;
/// The least room that is reckoned with.
const FEWEST: usize = 40;

/// An example as it is shown in so many columns: one that is long goes on on further lines, as a shell takes
/// it.
fn shown(example: &str, columns: usize) -> String {
    let columns = columns.clamp(FEWEST, COLUMNS);
    let (mut lines, mut rest, mut indent) = (String::new(), example, "  ");
    while let Some(at) = place_to_break(rest, columns.saturating_sub(indent.len())) {
        let (line, after) = rest.split_at(at);
        lines.push_str(&format!("{indent}{line} \\\n"));
        (rest, indent) = (after.trim_start(), "      ");
    }
    format!("{lines}{indent}{rest}")
}

/// Where a command goes on on another line, if it is longer than `room`: before an option, or else at the
/// last space that no quotes are around.
fn place_to_break(command: &str, room: usize) -> Option<usize> {
    let (mut spaces, mut quote) = (Vec::new(), None);
    for (at, c) in command.char_indices().skip(1) {
        match (c, quote) {
            ('\'' | '"', None) => quote = Some(c),
            (c, Some(open)) if c == open => quote = None,
            (' ', None) if at.saturating_add(2) <= room => spaces.push(at),
            _ => {}
        }
    }
    let option = |at: &&usize| command.get(**at..).is_some_and(|rest| rest.starts_with(" -"));
    spaces.iter().rfind(option).or(spaces.last()).copied().filter(|_| command.len() > room)
}

/// The command line with an example in the help of each command.
pub(crate) fn add(command: Command, columns: usize) -> Command {
    EXAMPLES.iter().fold(command, |command, (name, examples)| {
        let heading = if examples.len() == 1 { "Example" } else { "Examples" };
        let examples: Vec<String> = examples.iter().map(|example| shown(example, columns)).collect();
        let help = format!("{heading}:\n{}", examples.join("\n"));
        command.mut_subcommand(*name, |subcommand| match subcommand.get_after_long_help() {
            // What a command says at its end comes before the examples.
            Some(said) => {
                let long = format!("{said}\n\n{help}");
                subcommand.after_help(help).after_long_help(long)
            }
            None => subcommand.after_help(help),
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of the first command of a line, as a shell splits it.
    fn words(line: &str) -> Vec<String> {
        let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
        for c in line.chars() {
            match (c, quote) {
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                (c, Some(open)) if c == open => quote = None,
                ('|' | '>' | '&' | ';', None) => break,
                (c, None) if c.is_whitespace() => words.extend(word.take()),
                (c, _) => word.get_or_insert_default().push(c),
            }
        }
        words.extend(word);
        words
    }

    /// The lines of a page's blocks of code that run the program; those that go on are joined.
    fn shown_in(page: &str) -> Vec<String> {
        let (mut lines, mut is_code) = (Vec::new(), false);
        let mut text = page.lines();
        while let Some(line) = text.next() {
            is_code ^= line.starts_with("```");
            let Some(command) = line.strip_prefix("$ ").or(Some(line)).filter(|_| is_code) else { continue };
            // A dependency of the same name is none.
            if !command.starts_with("tensorpatch ") || command.starts_with("tensorpatch = ") {
                continue;
            }
            let mut command = command.split("  #").next().unwrap_or_default().trim_end().to_owned();
            while let Some(begun) = command.strip_suffix('\\') {
                let next = text.next().unwrap_or_default();
                command = format!("{begun} {}", next.split("  #").next().unwrap_or_default().trim());
            }
            lines.push(command);
        }
        lines
    }

    #[test]
    fn what_the_documentation_shows_parses() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let docs = std::fs::read_dir(format!("{root}/docs")).unwrap().map(|entry| entry.unwrap().path());
        let pages = docs.filter(|path| path.extension().is_some_and(|extension| extension == "md"));
        let mut shown = 0;
        for path in pages.chain([format!("{root}/README.md").into()]) {
            for line in shown_in(&std::fs::read_to_string(&path).unwrap()) {
                // What stands for a value that has a form of its own.
                let words = words(&line).into_iter().map(|word| match word.as_str() {
                    "PUBLIC" | "PUBLIC_KEY" | "NEW_KEY" | "OLD_KEY" | "KEY" => {
                        "3b6a27bcceb6a42d62a3a8d02a6f0d73653215771de243a63ac048a18b59da29".into()
                    }
                    "ID" => "00112233445566778899aabbccddeeff".into(),
                    "N" => "3".into(),
                    _ => word,
                });
                if let Err(error) = crate::command_line().try_get_matches_from(words) {
                    panic!("{}: {line}: {error}", path.display());
                }
                shown += 1;
            }
        }
        assert!(shown > 20, "{shown}");
    }

    #[test]
    fn the_help_of_a_command_says_more_than_its_line_in_the_list() {
        for command in crate::command_line().get_subcommands().filter(|command| command.get_name() != "help")
        {
            let (line, whole) = (command.get_about(), command.get_long_about());
            let (line, whole) =
                (line.unwrap().to_string(), whole.map(ToString::to_string).unwrap_or_default());
            let is_told = matches!(command.get_name(), "completions" | "man");
            assert!(is_told || whole.len() > line.len() + 20, "{}: {whole}", command.get_name());
            assert!(line.len() < 80 && !line.ends_with('.'), "{line}");
        }
    }

    #[test]
    fn every_command_has_examples_that_parse() {
        let command = crate::command_line();
        let commands: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
        let shown: Vec<&str> = EXAMPLES.iter().map(|(name, _)| *name).collect();
        for name in &commands {
            assert!(shown.contains(name), "{name} has no example");
        }
        for (name, examples) in EXAMPLES {
            for example in *examples {
                let parsed = crate::command_line().try_get_matches_from(words(example));
                let matches = parsed.unwrap_or_else(|error| panic!("{example}: {error}"));
                assert_eq!(matches.subcommand_name(), Some(*name), "{example}");
            }
        }
    }
}
