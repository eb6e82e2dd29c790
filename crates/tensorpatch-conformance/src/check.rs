//! Both decoders against every vector.

use tensorpatch_testkit::Verdict;

use crate::vector::States;
use crate::{Outcome, Vector};

/// What a decoder says of a vector that it should not say; empty if all is well.
pub fn faults(states: &States, vectors: &[Vector]) -> Vec<String> {
    vectors.iter().flat_map(|vector| faults_of(states, vector)).collect()
}

fn faults_of(states: &States, vector: &Vector) -> Vec<String> {
    let base = vector.base.map(|base| states.get(base).model());
    let due = match &vector.outcome {
        Outcome::Target(target) => Verdict::Target { state: states.get(target).model(), layout: None },
        Outcome::Refused { code, offset } => Verdict::Refused { code, offset: *offset },
    };
    let verdicts = [
        ("the reference decoder", Verdict::of_reference(&vector.file, base.as_ref())),
        ("the fast decoder", Verdict::of_fast(&vector.file, base.as_ref())),
    ];
    let mut faults = Vec::new();
    for (decoder, verdict) in verdicts {
        let right = match (&verdict, &due) {
            (Verdict::Target { state, .. }, Verdict::Target { state: due, .. }) => state == due,
            // Both check records after the trailer.
            (Verdict::Refused { .. }, Verdict::Refused { .. }) if vector.flags.contains(&"forward") => true,
            (verdict, due) => verdict == due,
        };
        if !right {
            let short = |verdict: &Verdict| match verdict {
                Verdict::Target { .. } => "a target".to_owned(),
                Verdict::Refused { code, offset } => format!("{code} at {offset}"),
            };
            faults.push(format!(
                "{}: {decoder} says {}{}, where {} is due ({})",
                vector.id,
                short(&verdict),
                if short(&verdict) == short(&due) { ", another one" } else { "" },
                short(&due),
                vector.comment,
            ));
        }
    }
    faults
}
