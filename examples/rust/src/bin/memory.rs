//! Publishes tensors from memory, as `SafeTensors`, to a stream in the current directory, and pulls them.

use tensorpatch::safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use tensorpatch::{Publisher, Replica};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let publisher = Publisher::builder("stream-of-memory").baseline("baseline-of-memory").open().await?;
    for step in 1..=3 {
        let state = serialize([("w", TensorView::new(Dtype::BF16, vec![4], &[step; 8])?)], None)?;
        let mut version = publisher.feed(Some(&format!("step {step}"))).await?;
        for (name, tensor) in SafeTensors::deserialize(&state)?.iter() {
            version.add(name, &tensor)?;
        }
        println!("{:?}", version.finish().await?);
    }
    Replica::open("stream-of-memory", "replica-of-memory").await?.pull().await?;
    let served = std::fs::read("replica-of-memory/model.safetensors")?;
    assert_eq!(SafeTensors::deserialize(&served)?.tensor("w")?.data(), [3; 8]);
    Ok(())
}
