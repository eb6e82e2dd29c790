//! `tensorpatch man`: the command line as pages for man(1).

use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::{Args, Command};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, roman};
use tensorpatch::checkpoint::AtomicFile;

/// The command whose page is about all of them.
const ALL: &str = "tensorpatch";

/// Write the man pages
///
/// A page for each command, into a directory.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// The directory; created if need be
    dir: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let dir = &arguments.dir;
    let failed = || format!("{}: cannot write the man pages", dir.display());
    fs::create_dir_all(dir).with_context(failed)?;
    let mut command = whole(crate::command_line()).disable_help_subcommand(true);
    command.build();
    write(&command, &mut |name, page| {
        // What has the name of a page may be a link that somebody has put there.
        let mut file = AtomicFile::create(&dir.join(name))?;
        file.write_all(page).with_context(failed)?;
        Ok(file.commit()?)
    })
}

/// A command with the help of all its options: what a short help leaves out, a page would.
fn whole(command: Command) -> Command {
    command.mut_args(|option| option.hide_short_help(false)).mut_subcommands(whole)
}

/// Hands over the page of a command, and of each command below it, with its name.
fn write(command: &Command, to: &mut impl FnMut(String, &[u8]) -> Result<()>) -> Result<()> {
    for subcommand in command.get_subcommands() {
        write(subcommand, to)?;
    }
    let man = Man::new(command.clone())
        .source(concat!("tensorpatch ", env!("CARGO_PKG_VERSION")))
        .manual("tensorpatch manual");
    let name = man.get_filename();
    to(name, &page(command, &man)?)
}

/// In the order of the sections that man-pages(7) gives.
fn page(command: &Command, man: &Man) -> io::Result<Vec<u8>> {
    let mut out = Vec::new();
    man.render_title(&mut out)?;
    man.render_name_section(&mut out)?;
    out.extend(synopsis(command).into_bytes());
    out.extend(description(command).into_bytes());
    man.render_options_section(&mut out)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut out)?;
    }
    let end = command.get_after_long_help().or(command.get_after_help());
    out.extend(end.map(|text| sections(&text.to_string())).unwrap_or_default().into_bytes());
    if command.get_name() != ALL {
        let see = Roff::new()
            .control("SH", ["SEE ALSO"])
            .text([bold(ALL), roman("(1), which has the exit codes")])
            .to_roff();
        out.extend(see.into_bytes());
    }
    Ok(out)
}

/// As the help has it: all options by their names would be a paragraph that nobody reads.
fn synopsis(command: &Command) -> String {
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").split_whitespace().collect::<Vec<_>>().join(" ");
    Roff::new().control("SH", ["SYNOPSIS"]).text([roman(usage)]).to_roff()
}

/// What is said of a command but for the line that is its name's.
fn description(command: &Command) -> String {
    let about = command.get_about().map(ToString::to_string).unwrap_or_default();
    let long = command.get_long_about().map(ToString::to_string).unwrap_or_default();
    let rest = long.strip_prefix(&about).unwrap_or(&long).trim();
    let mut roff = Roff::new();
    roff.control("SH", ["DESCRIPTION"]);
    for paragraph in if rest.is_empty() { &about } else { rest }.split("\n\n") {
        roff.control("PP", []).text([roman(paragraph)]);
    }
    roff.to_roff()
}

/// What stands at the end of the help: blocks with a heading, of examples or of words and what they mean.
fn sections(text: &str) -> String {
    let mut roff = Roff::new();
    for block in text.split("\n\n") {
        let Some((heading, lines)) = block.split_once('\n') else { continue };
        let heading = heading.split([',', ':']).next().unwrap_or_default();
        let heading = if heading == "Exit codes" { "EXIT STATUS".into() } else { heading.to_uppercase() };
        roff.control("SH", [heading.as_str()]);
        if heading.starts_with("EXAMPLE") {
            roff.control("nf", []).text([roman(lines)]).control("fi", []);
            continue;
        }
        for line in lines.lines() {
            match line
                .strip_prefix("  ")
                .filter(|line| !line.starts_with(' '))
                .and_then(|l| l.split_once("  "))
            {
                Some((word, meaning)) => {
                    roff.control("TP", []).text([bold(word)]).text([roman(meaning.trim_start())])
                }
                None => roff.text([roman(line.trim_start())]),
            };
        }
    }
    roff.to_roff()
}
