//! Diff, apply, publish, pull and follow over three checkpoints, in the current directory:
//! `sync STEP-1 STEP-2 STEP-3`.

use tensorpatch::{Patch, Publisher, Replica, diff};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let steps: Vec<String> = std::env::args().skip(1).collect();
    let [one, two, three] = steps.as_slice() else { return Err("usage: sync STEP-1 STEP-2 STEP-3".into()) };
    diff(one, two)?.write("two.tpatch")?;
    Patch::open("two.tpatch")?.apply(one, "rebuilt.safetensors")?;
    let publisher = Publisher::builder("stream").baseline("baseline").open().await?;
    publisher.publish(two).await?;
    let replica = Replica::open("stream", "replica").await?;
    replica.pull().await?;
    publisher.publish(three).await?;
    println!("{:?}", replica.follow().next().await?);
    Ok(())
}
