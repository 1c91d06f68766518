//! Snapshots as a conversation of replicas.
