//! What a report says of a stream, and what a follower counts.

use tensorpatch_store::upkeep::{ReportOptions, report};
use tensorpatch_store::{ApplyMode, FollowMetrics, Replica, ReplicaOptions};

use crate::support::{World, quick_polls, v, values};

/// How many elements differ between two steps of the small checkpoint's tensors, in the order of their
/// layers.
fn changed(step: u64) -> Vec<u64> {
    [(1, 3000), (2, 5000)]
        .map(|(seed, elements)| {
            let (old, new) = (values(seed, step - 1, elements), values(seed, step, elements));
            old.chunks(2).zip(new.chunks(2)).filter(|(old, new)| old != new).count() as u64
        })
        .to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_counts_what_changed_in_each_layer_and_what_a_late_join_costs() {
    let world = World::new().await;
    world.publish_steps(6).await;
    let leased = ReplicaOptions::default().with_lease("engine");
    Replica::of(world.stream.clone(), world.path("r"), leased).pull_version(v(4)).await.unwrap();
    let none = report(&world.stream, world.path("unused"), &ReportOptions::default()).await.unwrap();
    assert!(none.steps.is_empty() && !world.path("unused").exists());

    let options = ReportOptions::default().with_steps(3);
    // Twice: what is in the working directory is of use, or at least no harm.
    for _ in 0..2 {
        let found = report(&world.stream, world.path("work"), &options).await.unwrap();
        assert_eq!(found.versions.len(), 6);
        let layers: Vec<(&str, u64)> = found.layers.iter().map(|l| (l.name.as_str(), l.elements)).collect();
        assert_eq!(layers, [("a", 3000), ("b", 5000)]);
        let versions: Vec<u64> = found.steps.iter().map(|step| step.version.get()).collect();
        assert_eq!(versions, [4, 5, 6]);
        for step in &found.steps {
            let counted = changed(step.version.get());
            assert_eq!(step.changed.as_ref(), Some(&counted), "version {}", step.version);
            // The elements of the fixture move by one unit.
            assert_eq!(step.distances, [counted.iter().sum::<u64>()]);
        }
        assert_eq!(found.steps_obstacle, None);
        let anchor = found.versions[0].bytes;
        let deltas: u64 = found.versions[1..].iter().map(|entry| entry.bytes).sum();
        let join = |held: Option<u64>| {
            let join = found.late_joins.iter().find(|join| join.held.map(|held| held.get()) == held);
            (join.unwrap().bytes, join.unwrap().edges)
        };
        assert_eq!(join(None), (Some(anchor + deltas), 6));
        assert_eq!(join(Some(6)), (Some(0), 0));
        assert_eq!(join(Some(5)), (Some(found.versions[5].bytes), 1));
        assert_eq!(found.edges.len(), 6);
        assert_eq!((found.replicas[0].holder.as_str(), found.replicas[0].held), ("engine", Some(v(4))));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_report_covers_the_newest_versions_and_says_what_cannot_be_compared() {
    let world = World::new().await;
    world.publish_steps(5).await;
    let newest = ReportOptions::default().with_versions(2).with_steps(9);
    let found = report(&world.stream, world.path("work"), &newest).await.unwrap();
    assert_eq!(found.versions.iter().map(|entry| entry.version.get()).collect::<Vec<_>>(), [4, 5]);
    assert_eq!(found.steps.len(), 1);

    std::fs::remove_dir_all(world.path("bucket/anchors")).unwrap();
    let options = ReportOptions::default().with_steps(2);
    let cut_off = report(&world.stream, world.path("other"), &options).await.unwrap();
    assert!(cut_off.steps.is_empty());
    assert!(cut_off.steps_obstacle.unwrap().contains("version 3 could not be had"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_counts_its_versions_bytes_and_answers() {
    let world = World::new().await;
    world.publish_steps(3).await;
    let metrics = FollowMetrics::default();
    let options = ReplicaOptions::default().with_mode(ApplyMode::InPlace).with_observer(metrics.observer());
    let stream = world.stream.clone().with_policy(quick_polls());
    let replica = Replica::of(stream, world.path("r"), options);
    replica.pull_version(v(1)).await.unwrap();
    let first = metrics.counts().downloaded_bytes;
    assert!(first > 0);
    let mut versions = replica.follow();
    metrics.pulled(&versions.next().await.unwrap().unwrap());
    let counts = metrics.counts();
    assert_eq!((counts.version, counts.newest, counts.behind()), (Some(v(3)), Some(v(3)), Some(0)));
    assert_eq!((counts.updates, counts.skipped, counts.failures.len()), (1, 1, 0));
    assert_eq!((counts.anchors.count, counts.deltas.count), (0, 2));
    assert!(counts.deltas.bytes > 0 && counts.deltas.bytes <= counts.downloaded_bytes - first);
    assert!(counts.downloaded_bytes > first && counts.polls >= 1 && counts.answered.is_some());
    let took = counts.took;
    assert!(!took.fetch.is_zero() && !took.stage.is_zero() && !took.activate.is_zero(), "{took:?}");
    let waited = tokio::time::timeout(std::time::Duration::from_millis(200), versions.next()).await;
    assert!(waited.is_err() && metrics.counts().polls > counts.polls);
}
