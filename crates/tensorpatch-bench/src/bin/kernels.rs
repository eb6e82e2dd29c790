//! Prints the size and the speed of the codec's kernels on a pair of checkpoints, for each level of this machine.

use std::path::PathBuf;

use anyhow::Result;
use clap::Parser;
use tensorpatch_bench::floor::Floor;
use tensorpatch_bench::kernels;
use tensorpatch_bench::pair::Pair;
use tensorpatch_codec::Level;
use tensorpatch_format::Profile;

#[derive(Parser)]
struct Arguments {
    base: PathBuf,
    target: PathBuf,
    /// Timed passes over the pair
    #[arg(long, default_value_t = 9)]
    passes: usize,
    /// Encode for receivers without the base
    #[arg(long)]
    direct: bool,
    /// Only the level of this name
    #[arg(long)]
    level: Option<String>,
    /// Do not compute the entropy floor
    #[arg(long)]
    no_floor: bool,
}

#[expect(clippy::print_stdout, reason = "the table is what this prints")]
fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let pair = Pair::open(&arguments.base, &arguments.target)?;
    let floor = (!arguments.no_floor).then(|| Floor::of(&pair));
    let profile = if arguments.direct { Profile::Direct } else { Profile::Compact };
    let bytes = pair.bytes() as f64;
    for level in Level::available() {
        if arguments.level.as_ref().is_some_and(|name| name != level.name()) {
            continue;
        }
        let report = kernels::run(&pair, level, profile, arguments.passes);
        let gbs = |seconds: f64| bytes / seconds / 1e9;
        println!(
            "{:9} payload {} B, {} records, {:.4} B/changed, file about {:.4}{}",
            level.name(),
            report.payload_bytes,
            report.records,
            report.payload_bytes as f64 / report.changed as f64,
            (report.payload_bytes + 22 * report.records + 400) as f64 / report.changed as f64,
            floor.map_or(String::new(), |floor| format!(
                ", density {:.3} %, floor {:.4}, payload {:+.2} %",
                100.0 * floor.changed as f64 / floor.elements as f64,
                floor.bytes() / floor.changed as f64,
                100.0 * (report.payload_bytes as f64 / floor.bytes() - 1.0)
            )),
        );
        let [encode, apply, in_place] = report.ratios;
        let best = report.best;
        println!(
            "          memcpy {:.2} GB/s; x memcpy (median; best): encode {encode:.3} {:.3}, apply {apply:.3} {:.3}, in place {in_place:.3} {:.3}; GB/s {:.2} {:.2} {:.2}",
            gbs(best.memcpy),
            best.memcpy / best.encode,
            best.memcpy / best.apply,
            best.memcpy / best.in_place,
            gbs(best.encode),
            gbs(best.apply),
            gbs(best.in_place),
        );
    }
    Ok(())
}
