//! What was measured, as tables and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands;
use crate::kernels;
use crate::ratios;
use crate::sizes::Sizes;
use crate::system;
use crate::table::{Row, Speed};

/// All that one run of the benchmark measured, and where.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The processor, as the system names it.
    pub machine: String,
    /// Its threads.
    pub threads: usize,
    /// How many times everything was timed.
    pub passes: usize,
    /// Sizes, a pair each.
    pub sizes: Vec<Sizes>,
    /// Encodings side by side.
    pub encodings: Vec<Encodings>,
    /// The codec on prepared buffers.
    pub kernels: Vec<Kernels>,
    /// The codec against the XOR of whole tensors.
    pub ratios: Vec<Ratios>,
    /// Whole commands.
    pub commands: Vec<commands::Row>,
    /// Publishing and pulling.
    pub system: Vec<system::Row>,
    /// The steps of the life of a stream, held against others.
    pub times_as_long: Vec<system::TimesAsLong>,
}

/// Encodings side by side on one pair.
#[derive(Debug, Serialize)]
pub struct Encodings {
    /// The pair.
    pub sizes: Sizes,
    /// The speed of memcpy, on one thread and on all, in GB a second.
    pub memcpy: [f64; 2],
    /// An encoding each.
    pub rows: Vec<Row>,
}

/// The codec on one pair.
#[derive(Debug, Serialize)]
pub struct Kernels {
    /// The pair.
    pub input: String,
    /// The share of the elements that differ.
    pub density: f64,
    /// The entropy floor of the pair.
    pub floor_bytes: f64,
    /// A level each.
    pub levels: Vec<kernels::Report>,
}

/// The codec against the XOR of whole tensors, on one pair.
#[derive(Debug, Serialize)]
pub struct Ratios {
    /// The pair.
    pub input: String,
    /// The share of the elements that differ.
    pub density: f64,
    /// The entropy floor of the pair.
    pub floor_bytes: f64,
    /// A level each.
    pub levels: Vec<ratios::Row>,
}

impl Report {
    /// A report of nothing yet, of this machine.
    pub fn new(threads: usize, passes: usize) -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
        let machine = model.map_or(std::env::consts::ARCH, |(_, model)| model).to_owned();
        let (sizes, encodings, kernels, ratios, commands, system, times_as_long) = Default::default();
        Self { machine, threads, passes, sizes, encodings, kernels, ratios, commands, system, times_as_long }
    }

    /// Tables in Markdown.
    pub fn tables(&self) -> String {
        let of = if self.ratios.is_empty() { "medians" } else { "the least" };
        let mut out =
            format!("{}, {} threads; {} of {} passes\n", self.machine, self.threads, of, self.passes);
        if !self.sizes.is_empty() {
            out += "\n";
            out += &sizes(&self.sizes);
        }
        for encodings in &self.encodings {
            out += &encodings.table();
        }
        for kernels in &self.kernels {
            out += &kernels.tables();
        }
        if !self.ratios.is_empty() {
            out += "\n";
            out += &ratios_table(&self.ratios);
        }
        if !self.commands.is_empty() {
            out += "\n";
            out += &commands_table(&self.commands);
        }
        if !self.system.is_empty() {
            out += "\n";
            out += &system_table(&self.system);
            out.push('\n');
            out += &times_as_long_table(&self.times_as_long);
        }
        out
    }
}

impl Encodings {
    fn table(&self) -> String {
        let sizes = &self.sizes;
        let mut rows: Vec<Vec<String>> = self
            .rows
            .iter()
            .map(|row| {
                let speed =
                    |speed: Speed| [speed.encode, speed.apply_verify].map(|speed| format!("{speed:.2}"));
                let sizes = [
                    row.name.clone(),
                    count(row.bytes),
                    format!("{:.3}", sizes.per_changed(row.bytes as f64)),
                    format!("{:+.1} %", sizes.over_floor(row.bytes)),
                ];
                [&sizes[..], &speed(row.one_thread), &speed(row.all_threads)].concat()
            })
            .collect();
        let floor = sizes.floor_bytes.round();
        rows.push(cells(&[
            "entropy floor",
            &separated(&format!("{floor:.0}")),
            &format!("{:.3}", sizes.per_changed(floor)),
            "",
            "",
            "",
            "",
            "",
        ]));
        let [one, all] = self.memcpy.map(|speed| format!("{speed:.2}"));
        rows.push(cells(&["memcpy", "", "", "", &one, &one, &all, &all]));
        let headings = [
            "encoding",
            "bytes",
            "B/change",
            "over floor",
            "encode GB/s",
            "apply + verify GB/s",
            "encode, all threads",
            "apply + verify, all threads",
        ];
        let heading = format!(
            "\n{}: {} bytes, {} of {} elements changed ({:.3} %)\n\n",
            sizes.input,
            count(sizes.model_bytes as u64),
            count(sizes.changed),
            count(sizes.elements),
            100.0 * sizes.density(),
        );
        heading + &markdown(&headings, &rows)
    }
}

fn sizes(all: &[Sizes]) -> String {
    let headings = [
        "pair",
        "changed",
        "floor B/change",
        "compact bytes",
        "B/change",
        "over floor",
        "payload over floor",
        "direct bytes",
        "B/change",
        "chunks, compact",
    ];
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|sizes| {
            let (compact, direct) = (&sizes.compact, &sizes.direct);
            let mut chunks = vec![format!("{} unchanged", compact.unchanged_chunks)];
            chunks.extend(compact.encodings.iter().map(|(name, chunks)| format!("{chunks} {name}")));
            vec![
                sizes.input.clone(),
                format!("{} ({:.3} %)", count(sizes.changed), 100.0 * sizes.density()),
                format!("{:.3}", sizes.per_changed(sizes.floor_bytes)),
                count(compact.file_bytes),
                format!("{:.3}", sizes.per_changed(compact.file_bytes as f64)),
                format!("{:+.2} %", sizes.over_floor(compact.file_bytes)),
                format!("{:+.2} %", sizes.over_floor(compact.payload_bytes)),
                count(direct.file_bytes),
                format!("{:.2}", sizes.per_changed(direct.file_bytes as f64)),
                chunks.join(", "),
            ]
        })
        .collect();
    markdown(&headings, &rows)
}

impl Kernels {
    fn tables(&self) -> String {
        let density = 100.0 * self.density;
        let mut out = format!("\n{}, {density:.3} % of the elements changed; one thread\n\n", self.input);
        let headings = [
            "level",
            "payload over floor",
            "memcpy GB/s",
            "hash",
            "unchanged",
            "encode",
            "apply",
            "in place",
            "encode x memcpy",
            "apply x memcpy",
            "in place x memcpy",
            "encode x XOR",
            "in place x XOR",
        ];
        let numbers = |numbers: &[f64], digits: usize| {
            numbers.iter().map(|number| format!("{number:.digits$}")).collect::<Vec<_>>()
        };
        let row = |report: &kernels::Report| {
            let (speed, memcpy) = (&report.one_thread, &report.per_memcpy);
            let over = 100.0 * (report.payload_bytes as f64 / self.floor_bytes - 1.0);
            let speeds =
                [speed.memcpy, speed.hash, speed.unchanged, speed.encode, speed.apply, speed.in_place];
            [
                cells(&[report.level, &format!("{over:+.2} %")]),
                numbers(&speeds, 2),
                numbers(&[memcpy.encode, memcpy.apply, memcpy.in_place], 3),
                numbers(&report.per_xor, 1),
            ]
            .concat()
        };
        out += &markdown(&headings, &self.levels.iter().map(row).collect::<Vec<_>>());
        let threads = self.levels.first().map_or(0, |report| report.all_threads.threads);
        let _ = writeln!(out, "\nThe same on {threads} threads\n");
        let headings = [
            "level",
            "memcpy GB/s",
            "unchanged",
            "encode",
            "apply",
            "in place",
            "encode x memcpy",
            "apply x memcpy",
            "in place x memcpy",
            "memcpy x one thread",
            "encode x one thread",
            "apply x one thread",
            "in place x one thread",
        ];
        let row = |report: &kernels::Report| {
            let all = &report.all_threads;
            let (speed, memcpy, one) = (&all.speed, &all.per_memcpy, &all.per_one_thread);
            [
                cells(&[report.level]),
                numbers(&[speed.memcpy, speed.unchanged, speed.encode, speed.apply, speed.in_place], 2),
                numbers(&[memcpy.encode, memcpy.apply, memcpy.in_place], 3),
                numbers(&[one.memcpy, one.encode, one.apply, one.in_place], 2),
            ]
            .concat()
        };
        out + &markdown(&headings, &self.levels.iter().map(row).collect::<Vec<_>>())
    }
}

fn ratios_table(all: &[Ratios]) -> String {
    let headings = [
        "pair",
        "changed",
        "payload over floor",
        "level",
        "encode GB/s",
        "in place GB/s",
        "encode x XOR",
        "in place x XOR",
    ];
    let rows = all.iter().flat_map(|pair| {
        pair.levels.iter().map(move |row| {
            let over = 100.0 * (row.payload_bytes as f64 / pair.floor_bytes - 1.0);
            vec![
                pair.input.clone(),
                format!("{:.3} %", 100.0 * pair.density),
                format!("{over:+.2} %"),
                row.level.to_owned(),
                format!("{:.2}", row.speed[0]),
                format!("{:.2}", row.speed[1]),
                format!("{:.2}", row.per_xor[0]),
                format!("{:.2}", row.per_xor[1]),
            ]
        })
    });
    markdown(&headings, &rows.collect::<Vec<_>>())
}

fn commands_table(all: &[commands::Row]) -> String {
    let headings = [
        "pair",
        "patch bytes",
        "command",
        "wall s",
        "GB/s",
        "user s",
        "system s",
        "kernels alone s",
        "peak anonymous MiB",
    ];
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|row| {
            vec![
                row.input.clone(),
                count(row.patch_bytes),
                row.command.to_owned(),
                format!("{:.3}", row.wall),
                format!("{:.2}", row.gb_per_second),
                format!("{:.3}", row.user),
                format!("{:.3}", row.system),
                row.kernels.map_or_else(|| "-".to_owned(), |kernels| format!("{kernels:.3}")),
                format!("{:.1}", row.peak_anonymous as f64 / f64::from(1 << 20)),
            ]
        })
        .collect();
    markdown(&headings, &rows)
}

fn system_table(all: &[system::Row]) -> String {
    let headings = [
        "run",
        "step",
        "wall s",
        "visible s",
        "processors s",
        "requests",
        "read MiB",
        "written MiB",
        "to disk MiB",
        "peak anonymous MiB",
    ];
    let mib = |bytes: u64| format!("{:.1}", bytes as f64 / f64::from(1 << 20));
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let row = |row: &system::Row| {
        let [read, written] = row.transferred;
        vec![
            row.input.clone(),
            row.step.to_owned(),
            format!("{:.3}", row.wall),
            or_dash(row.visible.map(|seconds| format!("{seconds:.3}"))),
            format!("{:.3}", row.processors),
            or_dash(row.requests.map(|requests| requests.to_string())),
            mib(read),
            mib(written),
            mib(row.to_disk),
            mib(row.peak_anonymous),
        ]
    };
    markdown(&headings, &all.iter().map(row).collect::<Vec<_>>())
}

fn times_as_long_table(all: &[system::TimesAsLong]) -> String {
    let row = |times: &system::TimesAsLong| {
        let [step, other] = times.steps;
        let until = if times.visible { ", until visible" } else { "" };
        let quotient = format!("{step}{until} / {other}");
        vec![times.input.clone(), quotient, format!("{:.2}", times.ratio), times.target.to_string()]
    };
    markdown(&["run", "times as long", "measured", "target"], &all.iter().map(row).collect::<Vec<_>>())
}

fn cells(cells: &[&str]) -> Vec<String> {
    cells.iter().map(|&cell| cell.to_owned()).collect()
}

fn markdown(headings: &[&str], rows: &[Vec<String>]) -> String {
    let mut out = format!("| {} |\n|{}\n", headings.join(" | "), "---|".repeat(headings.len()));
    for row in rows {
        let _ = writeln!(out, "| {} |", row.join(" | "));
    }
    out
}

fn count(number: u64) -> String {
    separated(&number.to_string())
}

/// Digits with the thousands set apart.
fn separated(digits: &str) -> String {
    let mut out = String::new();
    for (place, digit) in digits.char_indices() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}
