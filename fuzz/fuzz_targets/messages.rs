//! Any bytes as each message that travels above the frames: refused with a reason, or a message that encodes to the same bytes again.
//!
//! The first byte says which message, and whether its envelope is made to fit first: bytes that were drawn at random never get past the
//! checksum. What a message carries in itself (records, tokens, positions) is taken apart as its reader does.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use towline::model::call::{Answer, Call, ReadAt};
use towline::model::codec::{self, ENVELOPE_BYTES, Enveloped};
use towline::model::from_client::{Cancel, FromClient};
use towline::model::request::{Request, RequestBody, Response, ResponseBody, StreamHello};
use towline::model::subscription::{Delivery, Follow, FollowAt, Subscribe};
use towline::model::{
    BackupManifest, CatalogChange, CatalogRecord, CatalogSnapshot, Change, ControlKind, ControlRecord, Filter, Message, Read, Record,
    SessionState, Since, Token,
};

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else {
        return;
    };
    let mended = |kind: u16| if how & 0x80 == 0 { envelope(kind, rest) } else { rest.to_vec() };
    match how & 0x7f {
        0 => request(&mended(Request::KIND)),
        1 => response(&mended(Response::KIND)),
        2 => subscribe(&mended(Subscribe::KIND)),
        3 => follow(&mended(Follow::KIND)),
        4 => delivery(&mended(Delivery::KIND)),
        5 => drop(same::<StreamHello>(&mended(StreamHello::KIND))),
        6 => drop(same::<CatalogChange>(&mended(CatalogChange::KIND))),
        7 => drop(same::<CatalogSnapshot>(&mended(CatalogSnapshot::KIND))),
        8 => drop(same::<BackupManifest>(&mended(BackupManifest::KIND))),
        9 => token(&mended(0x0701)),
        10 => record(rest.to_vec()),
        // Between nodes: a header, and batches behind it. The kind of the header is the first of its numbers.
        11 => {
            if let Ok(message) = Message::decode(&Bytes::from(mended(0x0201))) {
                let bytes = message.encode().expect("what was decoded can be sent");
                assert_eq!(Message::decode(&bytes).expect("what is sent can be read"), message);
            }
        }
        12..16 => {
            let kind = [ControlKind::EpochStart, ControlKind::OpenSession, ControlKind::CloseSession, ControlKind::Trim]
                [usize::from((how & 0x7f) - 12)] as u16;
            let bytes = mended(kind);
            if let Ok(control) = ControlRecord::decode(&bytes) {
                assert_eq!(control.encode().expect("it was read").as_ref(), bytes);
            }
        }
        16 => {
            if let Ok(record) = CatalogRecord::decode(&mended(CatalogChange::KIND)) {
                record.encode().expect("it was read");
            }
        }
        17 => {
            let state = std::str::from_utf8(rest).ok().and_then(|text| text.parse::<SessionState>().ok());
            if let Some(state) = state {
                assert_eq!(state.to_string().parse::<SessionState>().expect("it was read"), state);
            }
        }
        18 => {
            let token = std::str::from_utf8(rest).ok().and_then(|text| text.parse::<Token>().ok());
            if let Some(token) = token {
                assert_eq!(token.to_string().parse::<Token>().expect("it was read"), token);
            }
        }
        19 => drop(same::<Cancel>(&mended(Cancel::KIND))),
        // As the server takes what comes on a stream of requests, of newer clients as well.
        20 => drop(FromClient::decode(&mended(Request::KIND))),
        _ => {}
    }
});

/// An envelope that is right, around any body.
fn envelope(kind: u16, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(ENVELOPE_BYTES + body.len());
    bytes.extend(kind.to_le_bytes());
    bytes.extend(1_u16.to_le_bytes());
    bytes.extend(u32::try_from(body.len()).expect("an input is small").to_le_bytes());
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&bytes);
    hasher.update(body);
    bytes.extend(hasher.finalize().to_le_bytes());
    bytes.extend(body);
    bytes
}

fn same<T: Enveloped>(bytes: &[u8]) -> Option<T> {
    let found = codec::decode::<T>(bytes).ok()?;
    assert_eq!(codec::encode(&found).expect("what was decoded can be sent"), bytes);
    Some(found)
}

fn request(bytes: &[u8]) {
    match same::<Request>(bytes).map(|request| request.body) {
        Some(RequestBody::Write { record: bytes }) => record(bytes),
        Some(RequestBody::Call(Call::Write { record: bytes, .. })) => record(bytes),
        Some(RequestBody::Call(call)) => {
            if let Some(ReadAt::AtLeast { token: bytes }) = call.read() {
                token(bytes);
            }
            match call {
                Call::MultiGet { read, .. } | Call::Scan { read, .. } | Call::ReadStream { read, .. } => {
                    drop(Read::try_from(read));
                }
                Call::Acknowledge { token: bytes, .. } => token(&bytes),
                _ => {}
            }
        }
        _ => {}
    }
}

fn response(bytes: &[u8]) {
    if let Some(Response { body: ResponseBody::Answer(answer), .. }) = same(bytes) {
        assert!(answer.written().is_none() || answer.placed().is_none());
        if let Answer::Token(bytes) | Answer::Snapshot { token: bytes, .. } = answer {
            token(&bytes);
        }
    }
}

fn subscribe(bytes: &[u8]) {
    if let Some(Subscribe { since, filter, .. }) = same(bytes) {
        drop((Since::try_from(since), Filter::from(filter)));
    }
}

fn follow(bytes: &[u8]) {
    if let Some(follow) = same::<Follow>(bytes) {
        drop(follow.options());
        if let FollowAt::Behind { token: bytes } | FollowAt::Seek { token: bytes } = follow.at {
            token(&bytes);
        }
    }
}

fn delivery(bytes: &[u8]) {
    if let Some(Delivery::Changes { changes, token: bytes }) = same(bytes) {
        token(&bytes);
        for change in changes {
            drop(Change::try_from(change));
        }
    }
}

fn token(bytes: &[u8]) {
    if let Ok(token) = Token::decode(bytes) {
        let again = token.encode().expect("it was read");
        assert_eq!(Token::decode(&again).expect("it was made"), token);
    }
}

fn record(bytes: Vec<u8>) {
    let mut bytes = Bytes::from(bytes);
    let all = bytes.clone();
    if let Ok(record) = Record::decode(&mut bytes) {
        let again = record.encode().expect("what was decoded can be written");
        assert_eq!(again.len(), record.encoded_len());
        let taken = all.len() - bytes.len();
        assert_eq!(Record::decode(&mut again.clone()).expect("it was written"), record);
        assert!(taken > 0);
    }
}
