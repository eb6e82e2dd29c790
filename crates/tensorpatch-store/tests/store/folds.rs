//! What must hold for the fold of any part of any stream: applied to its base, it gives its target.

use std::cell::Cell;
use std::path::Path;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use tensorpatch_store::{ApplyMode, Folder, PublishOptions};

use crate::support::{World, assert_same, safetensors, v, values};

/// A version: the tensors that it has, and whether each lies in a file of its own.
#[derive(Debug, Clone)]
struct Made {
    tensors: Vec<(&'static str, Vec<u8>)>,
    sharded: bool,
}

/// Versions that keep most of what the others have, lack tensors that others have, and have some in another
/// shape.
fn made() -> impl Strategy<Value = Made> {
    let tensor = |seed| {
        let elements = prop_oneof![6 => Just(Some(1500)), 1 => Just(Some(400)), 1 => Just(None)];
        (elements, 0_u64..30).prop_map(move |(elements, step)| elements.map(|len| values(seed, step, len)))
    };
    let always = (0_u64..30).prop_map(|step| Some(values(1, step, 3000)));
    (always, tensor(2), tensor(3), prop::bool::weighted(0.2)).prop_map(|(a, b, c, sharded)| {
        let named = [("a", a), ("b", b), ("c", c)];
        let tensors = named.into_iter().filter_map(|(name, bytes)| Some((name, bytes?))).collect();
        Made { tensors, sharded }
    })
}

fn write(dir: &Path, made: &Made) {
    std::fs::create_dir_all(dir).unwrap();
    if !made.sharded {
        return std::fs::write(dir.join("model.safetensors"), safetensors(&made.tensors)).unwrap();
    }
    let mut files = serde_json::Map::new();
    for (i, tensor) in made.tensors.iter().enumerate() {
        let file = format!("model-{:05}-of-{:05}.safetensors", i + 1, made.tensors.len());
        std::fs::write(dir.join(&file), safetensors(std::slice::from_ref(tensor))).unwrap();
        files.insert(tensor.0.into(), file.into());
    }
    let size: usize = made.tensors.iter().map(|(_, bytes)| bytes.len()).sum();
    let index = serde_json::json!({ "metadata": { "total_size": size }, "weight_map": files });
    std::fs::write(dir.join("model.safetensors.index.json"), index.to_string()).unwrap();
}

/// Publishes all versions, folds from one to another, and brings replicas that are at the first to the last
/// by the fold. Says whether the fold was worth adding.
async fn fold(versions: &[Made], from: u64, to: u64) -> bool {
    let world = World::new().await;
    let publisher = world.publisher().await;
    let place = |number: u64| world.path(&format!("version-{number}"));
    for (number, made) in (1..).zip(versions) {
        write(&place(number), made);
        assert_eq!(publisher.publish(&place(number)).await.unwrap().version, v(number));
    }
    let replicas = [("beside", ApplyMode::Beside), ("in-place", ApplyMode::InPlace)];
    let replicas = replicas.map(|(name, mode)| world.replica(name, mode));
    for replica in &replicas {
        replica.pull_version(v(from)).await.unwrap();
        assert_same(replica.dir(), &place(from));
    }
    let folder = Folder::new(world.stream.clone(), world.path("work"), PublishOptions::default());
    let folded = folder.fold(v(from), v(to)).await.unwrap();
    for replica in &replicas {
        let pulled = replica.pull_version(v(to)).await.unwrap();
        if folded.added {
            assert_eq!((pulled.edges.len(), pulled.plan_bytes), (1, folded.bytes));
        }
        assert_same(replica.dir(), &place(to));
    }
    folded.added
}

#[test]
fn a_fold_brings_every_version_to_every_later_one() {
    const CASES: u32 = 16;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let added = Cell::new(0);
    let streams = prop::collection::vec(made(), 3..7).prop_flat_map(|versions| {
        let last = versions.len() as u64;
        (Just(versions), 1..last - 1)
            .prop_flat_map(move |(versions, from)| (Just(versions), Just(from), from + 2..=last))
    });
    let config =
        Config { cases: CASES, max_shrink_iters: 100, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new(config);
    runner
        .run(&streams, |(versions, from, to)| {
            added.set(added.get() + u32::from(runtime.block_on(fold(&versions, from, to))));
            Ok(())
        })
        .unwrap();
    assert!(added.get() > CASES / 2, "only {} of {CASES} folds were worth adding", added.get());
}
