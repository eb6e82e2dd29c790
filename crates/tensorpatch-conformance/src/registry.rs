//! All vectors and all records, of every module that makes some.

use crate::records::{self, Record};
use crate::vector::{States, Vector};
use crate::{
    encodings, evolution, example, invalid, invalid_blocks, invalid_orders, invalid_parts, invalid_payloads,
    invalid_twice, layouts, records_handed, records_refused, records_signed, records_written, sparse,
    sparse_bounds, sparse_by_hand, valid,
};

/// Makes all states and all vectors.
pub fn vectors() -> (States, Vec<Vector>) {
    let states = States::make();
    let mut all = valid::vectors(&states);
    all.extend(encodings::vectors(&states));
    all.extend(sparse::vectors(&states));
    all.extend(sparse_by_hand::vectors(&states));
    all.extend(sparse_bounds::vectors(&states));
    all.push(example::vector(&states));
    all.extend(invalid::vectors(&states));
    all.extend(invalid_parts::vectors(&states));
    all.extend(invalid_blocks::vectors(&states));
    all.extend(invalid_payloads::vectors(&states));
    all.extend(invalid_twice::vectors(&states));
    all.extend(invalid_orders::vectors(&states));
    all.extend(evolution::vectors(&states));
    all.extend(layouts::vectors(&states));
    for vector in &mut all {
        // What declares 2^60 of something, or unpacks to far more than it may.
        let declares = ["-huge", "-bomb", "-all-ones"].iter().any(|end| vector.id.ends_with(end));
        if declares && !vector.flags.contains(&"bomb") {
            vector.flags.push("bomb");
        }
    }
    (states, all)
}

/// Makes all vectors of records.
pub(crate) fn records() -> Vec<Record> {
    let mut maker = records::Maker::default();
    records::taken(&mut maker);
    records_refused::shapes(&mut maker);
    records_refused::rules(&mut maker);
    records_written::written(&mut maker);
    records::signatures(&mut maker);
    records_signed::curve(&mut maker);
    records_handed::handovers(&mut maker);
    maker.0
}
