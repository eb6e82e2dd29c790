//! Writes inputs for every fuzz target to start from to `fuzz/corpus/TARGET/`: cargo run -p
//! tensorpatch-testkit --example fuzz_seeds

use std::path::Path;

use tensorpatch_testkit::fuzz::TARGETS;

fn main() -> std::io::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus");
    for target in TARGETS {
        let directory = corpus.join(target.name);
        std::fs::create_dir_all(&directory)?;
        for (name, bytes) in target.inputs()? {
            std::fs::write(directory.join(name), bytes)?;
        }
    }
    Ok(())
}
