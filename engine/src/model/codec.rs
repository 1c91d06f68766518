//! The envelope of every message and stored structure that is not laid out by hand, and the only module that
//! names bincode.
//!
//! ```text
//! 0  u16  kind: what the body is
//! 2  u16  version of that kind's layout
//! 4  u32  length of the body
//! 8  u32  CRC-32 (IEEE) of bytes 0..8 and of the body
//! 12      body: bincode 2, fixed-width little-endian integers, no trailing bytes
//! ```
//!
//! bincode is not self-describing, so a released version's layout is frozen: a changed struct is a new version,
//! and the decoder of version n takes n-1 as well. Variable-width integers are not used, since they have several
//! encodings of one value. Every decode is bounded by a limit, so that a hostile length asks for no memory.

pub use bincode::{Decode, Encode};
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// Bytes before the body.
pub const ENVELOPE_BYTES: usize = 12;

/// A structure that travels or is stored in an envelope.
///
/// ```
/// use towline::model::codec::{Decode, ENVELOPE_BYTES, Encode, Enveloped, decode, encode};
/// #[derive(Debug, PartialEq, Encode, Decode)]
/// struct Checkpoint {
///     lsn: u64,
/// }
/// impl Enveloped for Checkpoint {
///     const KIND: u16 = 0xff01;
///     const VERSION: u16 = 1;
///     const BYTES_MAX: usize = 8;
/// }
/// let bytes = encode(&Checkpoint { lsn: 7 })?;
/// assert_eq!(bytes.len(), ENVELOPE_BYTES + 8, "integers have a fixed width");
/// assert_eq!(decode::<Checkpoint>(&bytes)?, Checkpoint { lsn: 7 });
/// # Ok::<(), towline::model::CodecError>(())
/// ```
pub trait Enveloped: Encode + Decode<()> {
    /// Which structure it is; one number each, listed in `docs/src/formats.md`.
    const KIND: u16;
    /// The version of its layout.
    const VERSION: u16;
    /// The most bytes that its body may have, and that decoding it may allocate.
    const BYTES_MAX: usize;
}

/// Why bytes are not the structure that was expected.
///
/// ```
/// use towline::model::codec::{ENVELOPE_BYTES, decode, encode};
/// use towline::model::{CatalogChange, CodecError, ShardId, request::StreamHello};
/// let mut bytes = encode(&StreamHello { shard: ShardId::new(1024), log: 7 })?.to_vec();
/// let other = decode::<CatalogChange>(&bytes);
/// assert_eq!(other, Err(CodecError::Kind { expected: 0x0601, found: 0x0202 }));
/// let cut = decode::<StreamHello>(&bytes[..20]);
/// assert_eq!(cut, Err(CodecError::Length { expected: 36, found: 20 }));
/// bytes[ENVELOPE_BYTES] ^= 1;
/// assert!(matches!(decode::<StreamHello>(&bytes), Err(CodecError::Checksum { .. })));
/// # Ok::<(), CodecError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// Fewer bytes than an envelope, or than its length says; or more.
    #[error("an envelope of {expected} bytes was expected, {found} are there")]
    Length {
        /// Bytes that the envelope wants.
        expected: usize,
        /// Bytes there.
        found: usize,
    },
    /// The checksum does not fit.
    #[error("the envelope's checksum is {found:#010x}, its bytes make {computed:#010x}")]
    Checksum {
        /// What the envelope says.
        found: u32,
        /// What its bytes make.
        computed: u32,
    },
    /// Another kind than expected.
    #[error("an envelope of kind {expected} was expected, this is kind {found}")]
    Kind {
        /// The kind wanted.
        expected: u16,
        /// The kind found.
        found: u16,
    },
    /// A version of the kind that this release does not know.
    #[error("kind {kind} has version {found}; known here: {known}")]
    Version {
        /// The kind.
        kind: u16,
        /// The newest version known here.
        known: u16,
        /// The version found.
        found: u16,
    },
    /// The body is over the kind's limit.
    #[error("kind {kind} may have {limit} bytes, this has {value}")]
    TooLarge {
        /// The kind.
        kind: u16,
        /// Its limit.
        limit: usize,
        /// The length found or needed.
        value: usize,
    },
    /// The body does not decode, or has bytes left over.
    #[error("the body of kind {kind} does not decode")]
    Body {
        /// The kind.
        kind: u16,
    },
}

/// A structure's bytes in its envelope.
///
/// # Errors
/// [`CodecError::TooLarge`]: the body is over the kind's limit.
pub fn encode<T: Enveloped>(value: &T) -> Result<Bytes, CodecError> {
    let body = bincode::encode_to_vec(value, encoding::<DECODE_BYTES_MAX>())
        .map_err(|_| CodecError::Body { kind: T::KIND })?;
    let too_large = CodecError::TooLarge { kind: T::KIND, limit: T::BYTES_MAX, value: body.len() };
    if body.len() > T::BYTES_MAX {
        return Err(too_large);
    }
    let length = u32::try_from(body.len()).map_err(|_| too_large)?;
    let mut out = BytesMut::with_capacity(ENVELOPE_BYTES.saturating_add(body.len()));
    out.put_u16_le(T::KIND);
    out.put_u16_le(T::VERSION);
    out.put_u32_le(length);
    let crc = checksum(&out, &body);
    out.put_u32_le(crc);
    out.put_slice(&body);
    Ok(out.freeze())
}

/// The structure in an envelope that fills `bytes`.
///
/// # Errors
/// The bytes are not one whole envelope of `T` in a version known here.
pub fn decode<T: Enveloped>(bytes: &[u8]) -> Result<T, CodecError> {
    let (value, rest) = decode_prefix(bytes)?;
    if rest.is_empty() {
        return Ok(value);
    }
    Err(CodecError::Length { expected: bytes.len().saturating_sub(rest.len()), found: bytes.len() })
}

/// The structure in the envelope at the front of `bytes`, and what follows it.
///
/// # Errors
/// As [`decode`], but for trailing bytes.
pub fn decode_prefix<T: Enveloped>(bytes: &[u8]) -> Result<(T, &[u8]), CodecError> {
    let (body, rest) = open::<T>(bytes)?;
    match decode_body::<T, T>(body)? {
        (value, used) if used == body.len() => Ok((value, rest)),
        _ => Err(CodecError::Body { kind: T::KIND }),
    }
}

/// The beginning of a structure, from an envelope that fills `bytes`, whatever comes behind it: of a newer release it may be what
/// is not known here.
///
/// # Errors
/// As [`decode`].
pub(crate) fn decode_start<T: Enveloped, Start: Decode<()>>(bytes: &[u8]) -> Result<Start, CodecError> {
    let (body, _) = open::<T>(bytes)?;
    decode_body::<T, Start>(body).map(|(start, _)| start)
}

/// What an envelope says that it is; nothing else of it was looked at.
pub(crate) fn kind_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk().map(|kind| u16::from_le_bytes(*kind))
}

/// The body of the envelope at the front of `bytes`, checked but for what is in it, and what follows it.
fn open<T: Enveloped>(bytes: &[u8]) -> Result<(&[u8], &[u8]), CodecError> {
    let short = CodecError::Length { expected: ENVELOPE_BYTES, found: bytes.len() };
    let Some((header, rest)) = bytes.split_first_chunk::<ENVELOPE_BYTES>() else {
        return Err(short);
    };
    let [k0, k1, v0, v1, l0, l1, l2, l3, c0, c1, c2, c3] = *header;
    let kind = u16::from_le_bytes([k0, k1]);
    let version = u16::from_le_bytes([v0, v1]);
    let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    let found_crc = u32::from_le_bytes([c0, c1, c2, c3]);
    if kind != T::KIND {
        return Err(CodecError::Kind { expected: T::KIND, found: kind });
    }
    if length > T::BYTES_MAX {
        return Err(CodecError::TooLarge { kind, limit: T::BYTES_MAX, value: length });
    }
    let Some((body, rest)) = rest.split_at_checked(length) else {
        return Err(CodecError::Length { expected: ENVELOPE_BYTES.saturating_add(length), found: bytes.len() });
    };
    let computed = checksum(&[k0, k1, v0, v1, l0, l1, l2, l3], body);
    if computed != found_crc {
        return Err(CodecError::Checksum { found: found_crc, computed });
    }
    if version != T::VERSION {
        return Err(CodecError::Version { kind, known: T::VERSION, found: version });
    }
    Ok((body, rest))
}

/// What a body begins with, within what decoding may allocate, and how many bytes that takes.
fn decode_body<T: Enveloped, Start: Decode<()>>(body: &[u8]) -> Result<(Start, usize), CodecError> {
    let decoded = match body.len() {
        0..=1024 => bincode::decode_from_slice::<Start, _>(body, encoding::<{ 64 << 10 }>()),
        1025..=0x4000 => bincode::decode_from_slice::<Start, _>(body, encoding::<{ 1 << 20 }>()),
        0x4001..=0x4_0000 => bincode::decode_from_slice::<Start, _>(body, encoding::<{ 16 << 20 }>()),
        _ => bincode::decode_from_slice::<Start, _>(body, encoding::<DECODE_BYTES_MAX>()),
    };
    decoded.map_err(|_| CodecError::Body { kind: T::KIND })
}

/// Writes a structure in its envelope as text: a prefix that says what it is, and hexadecimal digits.
///
/// # Errors
/// As `f`; the body is over the kind's limit.
pub(crate) fn write_text<T: Enveloped>(f: &mut fmt::Formatter<'_>, prefix: &str, value: &T) -> fmt::Result {
    let bytes = encode(value).map_err(|_| fmt::Error)?;
    f.write_str(prefix)?;
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

/// The bytes of a text that [`write_text`] made; none: it is no such text.
pub(crate) fn bytes_of_text(prefix: &str, text: &str) -> Option<Vec<u8>> {
    let digits = text.strip_prefix(prefix)?;
    let (pairs, rest) = digits.as_bytes().as_chunks::<2>();
    // A sign, which `from_str_radix` would take, is no digit.
    if !rest.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    // Neither fails, of two digits; if it did, it would be no such text.
    let byte = |pair: &[u8; 2]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.iter().map(byte).collect()
}

/// What decoding may allocate, by the lengths that a body announces inside. bincode takes it as a constant, so [`decode_prefix`] has a
/// few, by the length of the body: each admits 64 times that and more, since what lies in memory is up to 40 times as large as its
/// bytes (a value that is absent is one of them), and a body of few bytes that announces many asks for little.
const DECODE_BYTES_MAX: usize = 64 * 1024 * 1024;

type Encoding<const LIMIT: usize> = bincode::config::Configuration<
    bincode::config::LittleEndian,
    bincode::config::Fixint,
    bincode::config::Limit<LIMIT>,
>;

const fn encoding<const LIMIT: usize>() -> Encoding<LIMIT> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<LIMIT>()
}

fn checksum(header: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(header);
    hasher.update(body);
    hasher.finalize()
}
