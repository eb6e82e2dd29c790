//! Tensors in memory become patches, without a checkpoint of the trainer's, in the current directory.

use tensorpatch::safetensors::{Dtype, SafeTensors, serialize, tensor::TensorView};
use tensorpatch::{Patch, diff_tensors, full_tensors};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // What a trainer holds: here the bytes of a file, as `SafeTensors`.
    let state = |step: u8| serialize([("weight", TensorView::new(Dtype::BF16, vec![4], &[step; 8])?)], None);
    let (first, second) = (state(1)?, state(2)?);

    // The first version is whole, the next one is what changed.
    full_tensors(SafeTensors::deserialize(&first)?.iter()).write("step-1.tpatch")?;
    Patch::open("step-1.tpatch")?.unpack("step-1.safetensors")?;
    let report =
        diff_tensors("step-1.safetensors", SafeTensors::deserialize(&second)?.iter())?.write("step-2.tpatch")?;
    println!("{} of {} elements changed", report.changed_elements, report.total_elements);
    Patch::open("step-2.tpatch")?.apply_in_place("step-1.safetensors")?;
    let served = std::fs::read("step-1.safetensors")?;
    assert_eq!(SafeTensors::deserialize(&served)?.tensor("weight")?.data(), [2; 8]);
    Ok(())
}
