//! Streams of checkpoint versions in an object store: commits, anchors, planning, replicas.
