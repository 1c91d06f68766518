//! A small HTTP service that keeps its data in the process: values with versions, streams of events, a feed.
//!
//! `cargo run --example http --features node -- DIRECTORY 127.0.0.1:8080` serves until ctrl-c; with `--check` in place of the
//! address it serves on a free port, asks itself what its users would, and ends.
//!
//! | request | answer |
//! |---|---|
//! | `PUT /values/KEY` (`if-match: VERSION`, `if-none-match: *`) | 204 and `etag`; 412 if the value has changed |
//! | `GET /values/KEY` (`towline-token: TOKEN`) | 200 and `etag`; 404 |
//! | `DELETE /values/KEY` (`if-match: VERSION`) | 204; 412 |
//! | `POST /streams/STREAM` | 204 and the event's number in `etag` |
//! | `GET /streams/STREAM?from=NUMBER` | up to 100 events, one in each line |
//! | `GET /changes?since=TOKEN&seconds=WAIT` | the next change as text, 204 if there is none in time; both with a token to go on from |
//!
//! Each answer to a write has a `towline-token`: a reader who sends it sees that write.

use anyhow::{Context as _, Result, bail, ensure};
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use bytes::Bytes;
use std::fmt::Write as _;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;
use towline::model::request::{Direction, FailureClass};
use towline::model::{Expect, Filter, Read, Since, Token, Write};
use towline::node::{Error, Namespace, Node, NodeOptions};
use towline::pipeline::SubmitPolicy;

const TOKEN: HeaderName = HeaderName::from_static("towline-token");
const BODY_BYTES_MAX: usize = 1024 * 1024;
const EVENTS_MAX: usize = 100;
/// So long a request for a change may wait: it also bounds how long a shutdown takes.
const WAIT_SECONDS_MAX: u64 = 10;

/// What goes wrong, as HTTP says it: the node's own class decides, not its text.
struct Failure(StatusCode, String);

impl<E: Into<Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let status = match error.class() {
            FailureClass::Retry | FailureClass::ReRoute => StatusCode::SERVICE_UNAVAILABLE,
            FailureClass::FixRequest => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self(status, error.to_string())
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let Self(status, text) = self;
        if status == StatusCode::SERVICE_UNAVAILABLE {
            return (status, [(header::RETRY_AFTER, "1")], text).into_response();
        }
        (status, text).into_response()
    }
}

fn bad(text: impl Into<String>) -> Failure {
    Failure(StatusCode::BAD_REQUEST, text.into())
}

/// What the node's threads may be waited for: not by one of the few threads that serve all connections.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Failure> + Send + 'static) -> Result<T, Failure> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(_) => Err(Failure(StatusCode::INTERNAL_SERVER_ERROR, "the request was broken off".to_owned())),
    }
}

/// What a writer says it has seen.
fn expected(headers: &HeaderMap) -> Result<Expect, Failure> {
    if let Some(version) = headers.get(header::IF_MATCH) {
        let version = version.to_str().ok().and_then(|text| text.trim_matches('"').parse().ok());
        return Ok(Expect::Version(version.ok_or_else(|| bad("if-match holds no version"))?));
    }
    Ok(if headers.contains_key(header::IF_NONE_MATCH) { Expect::Absent } else { Expect::Any })
}

fn token(text: &str) -> Result<Token, Failure> {
    text.parse().map_err(|error| bad(format!("{text:?} is no token: {error}")))
}

/// A full queue is an answer, not a wait; what is taken is awaited by no thread.
async fn submit(space: &Namespace, write: Write) -> Result<Response, Failure> {
    let written = space.write_when(write, SubmitPolicy::Fail)?.await?;
    Ok(match written.outcome.applied() {
        Ok(version) => {
            let headers = [(header::ETAG, format!("\"{version}\"")), (TOKEN, written.token().to_string())];
            (StatusCode::NO_CONTENT, headers).into_response()
        }
        Err(rejection) => (StatusCode::PRECONDITION_FAILED, rejection.to_string()).into_response(),
    })
}

async fn put_value(
    State(space): State<Namespace>,
    Path(key): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Failure> {
    let expect = expected(&headers)?;
    submit(&space, Write::new().expect(key.clone(), expect).put(key, body)).await
}

async fn delete_value(
    State(space): State<Namespace>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let expect = expected(&headers)?;
    submit(&space, Write::new().expect(key.clone(), expect).delete(key)).await
}

async fn get_value(
    State(space): State<Namespace>,
    Path(key): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let read = match headers.get(TOKEN) {
        Some(text) => Read::AtLeast(token(text.to_str().unwrap_or_default())?),
        None => Read::Linearizable,
    };
    let found = blocking(move || Ok(space.get(key, read)?)).await?;
    Ok(match found {
        Some(found) => ([(header::ETAG, format!("\"{}\"", found.version))], found.value).into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    })
}

async fn append(State(space): State<Namespace>, Path(stream): Path<String>, body: Bytes) -> Result<Response, Failure> {
    if body.contains(&b'\n') {
        return Err(bad("an event is one line"));
    }
    submit(&space, Write::new().append(stream, Expect::Any, body)).await
}

#[derive(serde::Deserialize)]
struct Page {
    from: Option<u64>,
}

async fn read_stream(
    State(space): State<Namespace>,
    Path(stream): Path<String>,
    Query(Page { from }): Query<Page>,
) -> Result<Vec<u8>, Failure> {
    blocking(move || {
        let bounds = (EVENTS_MAX, 8 * BODY_BYTES_MAX);
        let read = space.read_stream(stream, from.unwrap_or(1), Direction::Forward, bounds, Read::Linearizable)?;
        let mut lines = Vec::new();
        for event in read.events {
            lines.extend_from_slice(&event.value);
            lines.push(b'\n');
        }
        Ok(lines)
    })
    .await
}

#[derive(serde::Deserialize)]
struct Changes {
    since: Option<String>,
    seconds: Option<u64>,
}

async fn changes(
    State(space): State<Namespace>,
    Query(Changes { since, seconds }): Query<Changes>,
) -> Result<Response, Failure> {
    let since = since.as_deref().map_or(Ok(Since::Beginning), |text| token(text).map(Since::Token))?;
    let patience = Duration::from_secs(seconds.unwrap_or(0).min(WAIT_SECONDS_MAX));
    let mut feed = blocking(move || Ok(space.subscribe(since, Filter::All)?)).await?;
    let Ok(change) = tokio::time::timeout(patience, feed.next()).await else {
        return Ok((StatusCode::NO_CONTENT, [(TOKEN, feed.token().to_string())]).into_response());
    };
    let mut lines = String::new();
    for operation in change?.operations {
        writeln!(lines, "{operation:?}").map_err(|error| bad(error.to_string()))?;
    }
    Ok(([(TOKEN, feed.token().to_string())], lines).into_response())
}

fn service(space: Namespace) -> Router {
    Router::new()
        .route("/values/{key}", put(put_value).get(get_value).delete(delete_value))
        .route("/streams/{stream}", post(append).get(read_stream))
        .route("/changes", get(changes))
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(space)
}

/// One request on a connection of its own: the status, the head, the body.
fn ask(address: SocketAddr, request: &str, headers: &str, body: &str) -> Result<(u16, String, String)> {
    let mut connection = TcpStream::connect(address)?;
    let length = body.len();
    let head =
        format!("{request} HTTP/1.1\r\nhost: towline\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}");
    connection.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer without a head")?;
    let status = head.split(' ').nth(1).context("an answer without a status")?.parse()?;
    Ok((status, head.to_owned(), body.to_owned()))
}

fn header_of(head: &str, name: &str) -> Result<String> {
    let found = head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    Ok(found.with_context(|| format!("no {name} in {head}"))?.to_owned())
}

/// What users ask, and what they have to hear.
fn check(address: SocketAddr) -> Result<()> {
    let says = |request: &str, headers: &str, body: &str, expected: u16| -> Result<(String, String)> {
        let (status, head, body) = ask(address, request, headers, body)?;
        ensure!(status == expected, "{request}: {status} instead of {expected}: {body}");
        println!("{status} {request:.40} {:.60}", headers.trim_end());
        Ok((head, body))
    };
    let (head, _) = says("PUT /values/name", "if-none-match: *\r\n", "Ada", 204)?;
    let (version, seen) = (header_of(&head, "etag")?, header_of(&head, "towline-token")?);
    says("PUT /values/name", "if-none-match: *\r\n", "Grace", 412)?;
    let (head, body) = says("GET /values/name", &format!("towline-token: {seen}\r\n"), "", 200)?;
    ensure!(body == "Ada" && header_of(&head, "etag")? == version, "{head} {body}");
    says("PUT /values/name", &format!("if-match: {version}\r\n"), "Grace", 204)?;
    says("PUT /values/name", &format!("if-match: {version}\r\n"), "nobody", 412)?;
    says("PUT /values/name", "if-match: new\r\n", "nobody", 400)?;
    says("DELETE /values/name", "", "", 204)?;
    says("GET /values/name", "", "", 404)?;
    for number in 1..=3 {
        let (head, _) = says("POST /streams/visits", "", &format!("visit {number}"), 204)?;
        ensure!(header_of(&head, "etag")? == format!("\"{number}\""), "{head}");
    }
    let (_, body) = says("GET /streams/visits?from=2", "", "", 200)?;
    ensure!(body == "visit 2\nvisit 3\n", "{body}");
    says("POST /streams/visits", "", "two\nlines", 400)?;
    says(&format!("PUT /values/{}", "k".repeat(5_000)), "", "", 400)?;
    let (mut since, mut seen) = (String::new(), 0);
    loop {
        let (status, head, body) = ask(address, &format!("GET /changes{since}"), "", "")?;
        since = format!("?since={}", header_of(&head, "towline-token")?);
        match status {
            200 => seen += 1,
            204 => break,
            _ => bail!("{status}: {body}"),
        }
    }
    // Two values, a deletion, three events: what was refused is no change.
    ensure!(seen == 6, "{seen} changes");
    says("GET /changes?since=yesterday", "", "", 400)?;
    Ok(())
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (directory, address) = match (arguments.next(), arguments.next()) {
        (Some(flag), None) if flag == "--check" => (None, None),
        (Some(directory), Some(address)) => (Some(directory), Some(address)),
        _ => bail!("usage: http DIRECTORY ADDRESS | http --check"),
    };
    let temporary = tempfile::tempdir()?;
    let node =
        Node::open(NodeOptions::alone(directory.as_deref().map_or_else(|| temporary.path(), std::path::Path::new)))?;
    let space = node.default_namespace();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let served = runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:0")).await?;
        let local = listener.local_addr()?;
        println!("http://{local}");
        let service = service(space);
        if address.is_some() {
            let stop = async {
                if let Err(error) = tokio::signal::ctrl_c().await {
                    eprintln!("ctrl-c is not heard: {error}");
                    std::future::pending::<()>().await;
                }
            };
            axum::serve(listener, service).with_graceful_shutdown(stop).await?;
            return Ok(());
        }
        let (done, stop) = tokio::sync::oneshot::channel::<()>();
        let checked = tokio::task::spawn_blocking(move || {
            let checked = check(local);
            drop(done);
            checked
        });
        axum::serve(listener, service).with_graceful_shutdown(async { drop(stop.await) }).await?;
        checked.await?
    });
    // What is under way is answered, then the node closes: what was acknowledged is there.
    drop(runtime);
    node.close()?;
    served
}
