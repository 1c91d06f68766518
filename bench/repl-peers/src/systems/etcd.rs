//! etcd, asked as its own clients ask: gRPC over HTTP/2, by the leader's address.

use super::{Client, Programs, System, ports, until_ready};
use crate::load::Case;
use crate::process::{Process, User, command};
use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use prost::Message;
use rustix::process::Signal;
use std::path::Path;
use std::sync::Arc;
use tonic::Request;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

// Of etcd's api/etcdserverpb/rpc.proto: what is asked and looked at here. Other fields of the answers are skipped, as
// protobuf wants it.

#[derive(Clone, PartialEq, Message)]
struct PutRequest {
    #[prost(bytes = "bytes", tag = "1")]
    key: Bytes,
    #[prost(bytes = "bytes", tag = "2")]
    value: Bytes,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseHeader {
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Clone, PartialEq, Message)]
struct PutResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
}

#[derive(Clone, PartialEq, Message)]
struct StatusRequest {}

#[derive(Clone, PartialEq, Message)]
struct StatusResponse {
    #[prost(message, optional, tag = "1")]
    header: Option<ResponseHeader>,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// The leader is the first of the processes.
pub(super) struct Etcd {
    leader: u16,
    processes: Vec<Process>,
}

impl Etcd {
    pub(super) async fn start(programs: &Programs, directory: &Path) -> Result<Self> {
        let (program, libraries) = programs.find("etcd")?;
        let [a, b, c, x, y, z] = ports()?;
        let (clients, peers) = ([a, b, c], [x, y, z]);
        let url = |port: u16| format!("http://127.0.0.1:{port}");
        let members: Vec<String> = (0..3).map(|at| format!("n{at}={}", url(peers[at]))).collect();
        let mut processes = Vec::new();
        for at in 0..3 {
            let data = directory.join(format!("n{at}"));
            let arguments = [
                ("--name", format!("n{at}")),
                ("--data-dir", data.display().to_string()),
                ("--listen-client-urls", url(clients[at])),
                ("--advertise-client-urls", url(clients[at])),
                ("--listen-peer-urls", url(peers[at])),
                ("--initial-advertise-peer-urls", url(peers[at])),
                ("--initial-cluster", members.join(",")),
                ("--quota-backend-bytes", (8_u64 << 30).to_string()),
                ("--log-level", "error".to_owned()),
            ];
            let arguments = arguments.into_iter().flat_map(|(name, value)| [name.to_owned(), value]);
            let command = command(&program, libraries.as_deref(), &User::Same, arguments);
            processes.push(Process::start(command, Signal::KILL, directory.join(format!("n{at}.log")))?);
        }
        let leader = until_ready(&mut processes, async || {
            let mut leader = None;
            for (at, port) in clients.iter().enumerate() {
                let channel = Endpoint::from_shared(url(*port))?.connect().await?;
                let path = "/etcdserverpb.Maintenance/Status";
                let status: StatusResponse = ask(&channel, path, StatusRequest {}).await?;
                ensure!(status.leader != 0, "no leader");
                if status.header.is_some_and(|header| header.member == status.leader) {
                    leader = Some(at);
                }
            }
            leader.context("no leader")
        })
        .await?;
        processes.swap(0, leader);
        Ok(Self { leader: clients[leader], processes })
    }
}

async fn ask<Q, A>(channel: &Channel, path: &'static str, question: Q) -> Result<A>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let codec = ProstCodec::<Q, A>::default();
    Ok(client.unary(Request::new(question), PathAndQuery::from_static(path), codec).await?.into_inner())
}

impl System for Etcd {
    fn processes(&self) -> &[Process] {
        &self.processes
    }

    fn connect(&self, _: Case) -> BoxFuture<'_, Result<Arc<dyn Client>>> {
        Box::pin(async move {
            let endpoint = Endpoint::from_shared(format!("http://127.0.0.1:{}", self.leader))?.tcp_nodelay(true);
            Ok(Arc::new(Connection(endpoint.connect().await?)) as Arc<dyn Client>)
        })
    }
}

struct Connection(Channel);

impl Client for Connection {
    fn write(&self, key: String, value: Vec<u8>) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let put = PutRequest { key: key.into(), value: value.into() };
            let answer: PutResponse = ask(&self.0, "/etcdserverpb.KV/Put", put).await?;
            ensure!(answer.header.is_some_and(|header| header.revision > 0), "no revision in the answer");
            Ok(())
        })
    }
}
