//! [`FromClient`]: what comes on a client's stream of requests, also from a client of a newer release.

use super::codec::{self, CodecError, Decode, Encode, Enveloped};
use super::request::Request;

/// A server that offers this feature of a connection takes a [`Cancel`]; to another one none is sent. The features of the messages
/// are the upper half of the bits.
pub const CANCEL: u64 = 1 << 32;

/// A message of a client on its stream of requests.
///
/// ```
/// use towline::model::codec::encode;
/// use towline::model::from_client::{Cancel, FromClient};
/// use towline::model::request::{Request, RequestBody};
/// let asked = Request { id: 7, deadline_ms: 500, namespace: "shop".into(), body: RequestBody::Status };
/// assert_eq!(FromClient::decode(&encode(&asked)?)?, FromClient::Request(asked));
/// assert_eq!(FromClient::decode(&encode(&Cancel { id: 7 })?)?, FromClient::Cancel(Cancel { id: 7 }));
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FromClient {
    /// A request.
    Request(Request),
    /// A request of which only the beginning is understood: of a newer client. It is answered by name.
    Newer(RequestHead),
    /// A request is waited for no more.
    Cancel(Cancel),
}

/// What every request begins with, of this release and of those to come.
///
/// ```
/// use towline::model::codec::encode;
/// use towline::model::from_client::{FromClient, RequestHead};
/// use towline::model::request::{Request, RequestBody};
/// let status = Request { id: 7, deadline_ms: 500, namespace: "shop".into(), body: RequestBody::Status };
/// let mut body = encode(&status)?[12..].to_vec();
/// // A request that this release does not know.
/// *body.iter_mut().rev().nth(3).ok_or("a variant number")? = 99;
/// # let mut bytes = [&0x0301_u16.to_le_bytes()[..], &1_u16.to_le_bytes(), &(body.len() as u32).to_le_bytes()].concat();
/// # let crc = crc32fast::hash(&[&bytes[..], &body].concat());
/// # bytes.extend([&crc.to_le_bytes()[..], &body].concat());
/// // `bytes` is its envelope.
/// let head = RequestHead { id: 7, deadline_ms: 500, namespace: "shop".into() };
/// assert_eq!(FromClient::decode(&bytes)?, FromClient::Newer(head));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Encode, Decode)]
pub struct RequestHead {
    /// As [`Request::id`].
    pub id: u64,
    /// As [`Request::deadline_ms`].
    pub deadline_ms: u32,
    /// As [`Request::namespace`].
    pub namespace: String,
}

/// A client waits for the answer of a request no more. If the request has not begun it has no effect, and is answered so; otherwise
/// it goes its way. It is answered once in any case, and this is not.
///
/// ```
/// use towline::model::codec::{ENVELOPE_BYTES, encode};
/// use towline::model::from_client::Cancel;
/// assert_eq!(encode(&Cancel { id: 7 })?.len(), ENVELOPE_BYTES + 8);
/// # Ok::<(), towline::model::CodecError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Encode, Decode)]
pub struct Cancel {
    /// The request.
    pub id: u64,
}

impl Enveloped for Cancel {
    const KIND: u16 = 0x0305;
    const VERSION: u16 = 1;
    const BYTES_MAX: usize = 64;
}

impl FromClient {
    /// The message in these bytes.
    ///
    /// # Errors
    /// They are no envelope of a kind and version that is known here, or not even the beginning of a request is there.
    pub fn decode(bytes: &[u8]) -> Result<Self, CodecError> {
        if codec::kind_of(bytes) == Some(Cancel::KIND) {
            return codec::decode(bytes).map(Self::Cancel);
        }
        match codec::decode::<Request>(bytes) {
            Ok(request) => Ok(Self::Request(request)),
            Err(CodecError::Body { .. }) => codec::decode_start::<Request, RequestHead>(bytes).map(Self::Newer),
            Err(error) => Err(error),
        }
    }
}
