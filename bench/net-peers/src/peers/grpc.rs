//! tonic: unary calls whose messages are bytes as they are, without protobuf, by one HTTP/2 connection.

use super::Caller;
use crate::wire::Ends;
use anyhow::Result;
use bytes::{Buf, BufMut, Bytes};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

/// One connection.
#[derive(Clone)]
pub(crate) struct Grpc {
    channel: Channel,
}

impl Grpc {
    pub(crate) fn open(ends: &Ends) -> Result<Self> {
        let (listener, address) = ends.listen()?;
        ends.server.spawn(async move {
            let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
            Server::builder().add_service(Echo).serve_with_incoming(incoming).await
        });
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true);
        let channel = ends.client.block_on(ends.client.spawn(async move { endpoint.connect().await }))??;
        Ok(Self { channel })
    }
}

impl Caller for Grpc {
    async fn call(&self, request: Bytes) -> Result<Bytes> {
        let mut client = tonic::client::Grpc::new(self.channel.clone());
        client.ready().await?;
        let path = PathAndQuery::from_static("/towline.bench.Echo/Call");
        Ok(client.unary(Request::new(request), path, Plain).await?.into_inner())
    }
}

/// The service.
#[derive(Clone)]
struct Echo;

impl NamedService for Echo {
    const NAME: &'static str = "towline.bench.Echo";
}

impl Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(async move { Ok(tonic::server::Grpc::new(Plain).unary(Answer, request).await) })
    }
}

struct Answer;

impl UnaryService<Bytes> for Answer {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;

    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        ready(Ok(Response::new(request.into_inner())))
    }
}

/// A message is its bytes.
#[derive(Clone, Copy)]
struct Plain;

impl Codec for Plain {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, message: Bytes, into: &mut EncodeBuf<'_>) -> Result<(), Status> {
        into.put(message);
        Ok(())
    }
}

impl Decoder for Plain {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        let length = from.remaining();
        Ok(Some(from.copy_to_bytes(length)))
    }
}
