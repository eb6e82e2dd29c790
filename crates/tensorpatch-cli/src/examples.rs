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
            "tensorpatch follow /shared/run-7 replica --exec 'curl -X POST http://localhost:8000/reload'",
        ],
    ),
    ("status", &["tensorpatch status /shared/run-7 replica --max-behind 3"]),
    ("log", &["tensorpatch log /shared/run-7 -n 20"]),
    ("doctor", &["tensorpatch doctor s3://bucket/run-7 --write"]),
    ("report", &["tensorpatch report /shared/run-7 -o report.html --steps 16"]),
    ("fsck", &["tensorpatch fsck /shared/run-7"]),
    ("fold", &["tensorpatch fold /shared/run-7 --from 10 --to 90"]),
    ("anchor", &["tensorpatch anchor /shared/run-7"]),
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

/// The command line with an example in the help of each command.
pub(crate) fn add(command: Command) -> Command {
    EXAMPLES.iter().fold(command, |command, (name, examples)| {
        let heading = if examples.len() == 1 { "Example" } else { "Examples" };
        let help = format!("{heading}:\n  {}", examples.join("\n  "));
        command.mut_subcommand(*name, |subcommand| subcommand.after_help(help))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The words of a line, as a shell splits it.
    fn words(line: &str) -> Vec<String> {
        let mut words = Vec::new();
        for (part, text) in line.split('\'').enumerate() {
            match part % 2 {
                0 => words.extend(text.split_whitespace().map(str::to_owned)),
                _ => words.push(text.to_owned()),
            }
        }
        words
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
