//! A raft node on the adapter's log: a cluster of one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{BasicNode, Config, OptionalSend, Raft, RaftNetwork, RaftNetworkFactory, ServerState, Snapshot, Vote};

use super::machine::Machine;
use super::{Types, open};

/// A cluster of one has nobody to talk to.
struct Nobody;

impl RaftNetworkFactory<Types> for Nobody {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &BasicNode) -> Self {
        Self
    }
}

type Unheard = RPCError<u64, BasicNode, RaftError<u64>>;

fn unheard() -> Unheard {
    RPCError::Unreachable(Unreachable::new(&std::io::Error::other("nobody")))
}

impl RaftNetwork<Types> for Nobody {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<Types>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, Unheard> {
        Err(unheard())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<u64>,
        _snapshot: Snapshot<Types>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<Types, Fatal<u64>>> {
        Err(StreamingError::Unreachable(Unreachable::new(&std::io::Error::other("nobody"))))
    }

    async fn vote(&mut self, _rpc: VoteRequest<u64>, _option: RPCOption) -> Result<VoteResponse<u64>, Unheard> {
        Err(unheard())
    }
}

#[test]
fn a_raft_node_that_is_stopped_and_started_has_applied_all_that_it_answered() {
    let dir = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let mut expected = Vec::new();
    for life in 0..3 {
        let (wal, store) = open(dir.path());
        let machine = Machine::default();
        let content = Arc::clone(&machine.content);
        runtime.block_on(async {
            let config = Config {
                election_timeout_min: 50,
                election_timeout_max: 100,
                heartbeat_interval: 20,
                ..Config::default()
            };
            let raft = Raft::new(1, Arc::new(config.validate().unwrap()), Nobody, store, machine).await.unwrap();
            if life == 0 {
                raft.initialize(BTreeMap::from([(1, BasicNode::new("here"))])).await.unwrap();
            }
            raft.wait(Some(Duration::from_secs(30))).state(ServerState::Leader, "alone").await.unwrap();
            for i in 0..20 {
                let text = format!("{life}.{i}");
                raft.client_write(text.clone()).await.unwrap();
                expected.push(text);
            }
            raft.shutdown().await.unwrap();
        });
        assert_eq!(content.lock().texts, expected, "life {life}");
        wal.close().unwrap();
    }
}
